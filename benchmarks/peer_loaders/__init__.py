"""The loaders that ours is compared with, each written as its library's users would, for two cores."""
