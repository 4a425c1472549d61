"""Turn a file or a data set into token ids: checked rows, labels and their names."""
