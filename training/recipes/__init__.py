"""One module a recipe: what is trained, on what data, and what it promises."""
