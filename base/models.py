"""What every room may stand on. Tables for incarnations and leadership come with the issues that use them."""
