"""Job ids: easy to type, unique, and a function of the request id, so a repeat finds its job."""

import hashlib
from typing import Iterator

_FIRST = (
    "amber arctic autumn bold brave bright brisk calm clever coral cosmic crisp deep eager early fair fast fine "
    "fleet gentle glad golden grand happy honest humble jolly keen kind light lively lucky lunar mellow merry mild "
    "misty modest neat nimble noble north patient plain polite proud quick quiet rapid ready river rustic sandy "
    "silent silver smart snowy solar solid steady still stone sunny swift tidy true vivid warm wild wise witty"
).split()
_SECOND = (
    "ant badger bat bear beaver bee bird bison boar carp cat cobra cod colt crab crane crow deer dingo dog dove "
    "duck eagle eel egret elk falcon ferret finch fox frog gecko goat goose gull hare hawk heron horse ibex ibis "
    "jay kite koala lark lemur lion lynx magpie marten mink mole moose mouse newt oriole otter owl panda perch "
    "pony puma quail rabbit ram raven robin salmon seal shark sheep shrew snail sparrow squid stoat stork swan "
    "tapir tern tiger toad trout turtle viper vole walrus wasp weasel whale wolf wren yak zebra"
).split()


def candidates(request_id: str) -> Iterator[str]:
    """Ids for a request, best first; all callers walk them in the same order."""
    digest = hashlib.sha256(request_id.encode("utf-8")).digest()
    base = "%s-%s" % (_FIRST[digest[0] % len(_FIRST)], _SECOND[digest[1] % len(_SECOND)])
    tail = digest[2:].hex()
    for length in (4, 6, 8, 12, 20):
        yield "%s-%s" % (base, tail[:length])
