"""The SDK and the command line.

``from fleet import MaskingClient``
"""
