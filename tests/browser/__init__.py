"""Tests of what people see; a package, since its files may be named as those beside it."""
