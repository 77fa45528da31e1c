"""Static datasets on disk and on the device."""
