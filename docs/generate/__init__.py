"""The pages of the reference that are made from code: the command line, experts.yaml and the HTTP API.

``python -m docs.generate`` writes them; a test checks that they are current.
"""
