"""Reading and writing of files: atomic writes, archives, packing, Arrow datasets."""
