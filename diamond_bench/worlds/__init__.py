"""World models: the contract that every family keeps, and one folder for each family."""
