"""Folders of packed weights, read with numpy alone from the text of their formats."""


class Malformed(Exception):
    """The folder is not what the format asks for."""


def demand(condition, message):
    if not condition:
        raise Malformed(message)
