"""Drop-in modules for the interfaces of other libraries.

Each subpackage is named after the library that it stands in for:

- `fastseg.compat.pydensecrf`: the dense CRF of pydensecrf, on fastseg's engine.
"""
