"""Playing world models and real games: sessions that can be rewound, keys, and recordings of actions."""
