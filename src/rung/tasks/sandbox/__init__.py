"""Work that may hang, die or mean harm, in processes that can be killed and are held to limits."""
