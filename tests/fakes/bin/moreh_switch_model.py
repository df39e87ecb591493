"""Fake ``moreh-switch-model``: the menu that changes the flavor of the default device, until ``q``."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import moai_state as moai


def show(state):
    current = moai.default(state)["flavor"] or "-"
    where = " at {}".format(state["group"]) if state["group"] else ""
    print("Current {}: {}{}\n".format(state["name"], current, where))
    print("\n".join(moai.menu_lines(state, current)))


def switch(number):
    """Switch by menu number, or say why not."""
    state = moai.load()
    if moai.running(state, state["default"]) is not None:
        print("The model cannot be switched while the {} is in use.".format(state["name"]))
        return
    flavor = moai.menu(state)[number - 1]
    moai.change(lambda fresh: moai.default(fresh).update(flavor=flavor))
    print('The {} model is successfully switched to  "{}".\n'.format(state["name"], flavor))


def main(words):
    state = moai.load()
    moai.refuse_trouble(state)
    last = len(moai.menu(state))
    if words[:1] == ["-M"] and state["menu_option"] and len(words) == 2 and words[1].isdigit():
        if 1 <= int(words[1]) <= last:
            switch(int(words[1]))
        return 0
    if words:
        print("usage: moreh-switch-model [-h]" + (" [-M MODEL]" if state["menu_option"] else ""))
        return 0 if words[0] in ("-h", "--help") else 2
    while True:
        show(moai.load())
        answer = moai.ask("Selection (1-{}, q, Q): ".format(last))
        if answer is None:
            return moai.at_end_of_input(state)
        if answer in ("q", "Q"):
            return 0
        if answer.isdigit() and 1 <= int(answer) <= last:
            switch(int(answer))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
