from fairlead.testing.nodes import make_site

__all__ = ["make_site"]
