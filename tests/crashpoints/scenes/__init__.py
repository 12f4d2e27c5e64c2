"""The scenarios, by what goes on in them."""
