"""``--platform`` of commands on images that are here."""


def as_json(text: str) -> str:
    """``linux/amd64`` as the API has it, the OCI's JSON; "" for none."""
    if not text:
        return ""
    import json

    names = ("os", "architecture", "variant")
    return json.dumps(dict(zip(names, text.split("/"), strict=False)), separators=(",", ":"))
