"""The progress bar that is part of Docker's messages: older clients print it as it is, newer ones draw their own."""

WIDTH = 50


def bar(current: int, total: int) -> str:
    """ "[=====>      ]  1.5MB/12MB"."""
    filled = min(WIDTH, WIDTH * current // total) if total else 0
    arrow = "=" * WIDTH + ">" if filled == WIDTH else "=" * max(0, filled - 1) + ">" + " " * (WIDTH - max(1, filled))
    return f"[{arrow}]  {size(current)}/{size(total)}"


def retrying(seconds: float) -> str:
    """What is said before another attempt, in whole seconds."""
    whole = max(1, round(seconds))
    return f"Retrying in {whole} second{'' if whole == 1 else 's'}"


def size(count: float) -> str:
    """Four digits and a decimal unit, as go-units writes sizes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g}{unit}"
        count /= 1000
    return f"{count:.4g}TB"
