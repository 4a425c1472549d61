"""Everything made from the files of a finished run alone: report, model card, advice, TensorBoard."""
