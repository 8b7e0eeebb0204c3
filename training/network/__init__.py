"""The networks of the recipes, each with the paper it is from; what they take and answer is the contract's."""
