"""Names for containers that were given none, in Docker's form: an adjective and someone who moved goods or ideas."""

import random
import re

from pierhead.errors import InvalidParameter

VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

ADJECTIVES = (
    "able agile airy ample amber apt awake balmy bold brave bright brisk calm candid careful cheery civil clever "
    "cosy crisp curious daring deft dapper eager early earnest easy even fair fleet fluent fond frank free fresh "
    "gentle glad golden handy happy hardy honest humble jolly keen kind lively loyal lucid merry mellow mild neat "
    "nimble noble patient placid plucky polite proud quick quiet ready robust sage serene sharp silent sleek smart "
    "snug sober solid spry steady stoic sunny swift tidy tranquil trusty upbeat vivid warm wise witty zesty"
).split()

SURNAMES = (
    "amundsen baltimore barents battuta bering bligh brendan brunel cabot cartier caboto champlain cheng cook cunard "
    "dampier darby dias drake earhart ericson faraday fitzroy flinders franklin frobisher fulton galilei gama harrison "
    "hawking henson hero hopper hudson humboldt janszoon kepler kingsley laperouse lovelace magellan maclean mallory "
    "markham mclean mercator nansen newton noether orellana parry perry plimsoll polo pytheas quiros raleigh ross "
    "rurik sacagawea scott shackleton slocum smeaton stephenson sverdrup tasman telford torres tupaia vancouver "
    "verne vespucci wallace watt wegener wren xuanzang zheng"
).split()


def generate() -> str:
    """A fresh name; not checked for being free."""
    return f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"


def validate(name: str) -> str:
    """The name without its "/". Raises InvalidParameter with Docker's words."""
    bare = name.removeprefix("/")
    if not VALID.fullmatch(bare):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare
