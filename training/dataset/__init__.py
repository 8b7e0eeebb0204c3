"""The data sets of the recipes: where each comes from, and how it becomes three splits of tensors."""
