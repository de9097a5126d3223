"""A secret leaves by ``reveal()`` and by nothing else."""

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from string import Template

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.secret import HIDDEN, Secret

VALUE = "sk-9f8e7d6c5b4a"
SECRET = Secret(VALUE)


@dataclasses.dataclass
class Held:
    token: Secret


class HeldStruct(msgspec.Struct):
    token: Secret


def fail(token: Secret) -> None:
    raise ValueError([token])


PRINTED: dict[str, Callable[[], str]] = {
    "repr": lambda: repr(SECRET),
    "str": lambda: str(SECRET),
    "ascii": lambda: ascii(SECRET),
    "f-string": lambda: f"{SECRET}",
    "f-string !r": lambda: f"{SECRET!r}",
    "f-string =": lambda: f"{SECRET=}",
    "f-string with width": lambda: f"{SECRET:>40}",
    "format": lambda: format(SECRET, "s"),
    "str.format": lambda: "{} {!s} {:10}".format(SECRET, SECRET, SECRET),  # noqa: UP032 - the case
    "percent s": lambda: "%s" % SECRET,  # noqa: UP031 - the case
    "percent r": lambda: "%r" % SECRET,  # noqa: UP031 - the case
    "template": lambda: Template("$x").substitute(x=SECRET),
    "in a list": lambda: str([SECRET]),
    "in a dictionary": lambda: str({"token": SECRET}),
    "pprint": lambda: pprint.pformat({"token": [SECRET]}),
    "in a dataclass": lambda: repr(Held(SECRET)),
    "in a Struct": lambda: repr(HeldStruct(SECRET)),
    "json with default=str": lambda: json.dumps({"token": SECRET}, default=str),
    "in an exception": lambda: str(ValueError(SECRET)),
    "in an exception's repr": lambda: repr(ValueError(SECRET)),
}

SERIALIZED: dict[str, Callable[[object], object]] = {
    "json": json.dumps,
    "msgspec.json": msgspec.json.encode,
    "msgspec.msgpack": msgspec.msgpack.encode,
    "msgspec.yaml": msgspec.to_builtins,
    "pickle": pickle.dumps,
    "pickle 0": lambda held: pickle.dumps(held, protocol=0),
    "bytes": bytes,  # type: ignore[dict-item]
    "vars": vars,
    "iteration": list,  # type: ignore[dict-item]
    "join": ",".join,  # type: ignore[dict-item]
    "concatenation": lambda held: "Bearer " + held,  # type: ignore[operator]
}


class TestPrinting:
    @pytest.mark.parametrize("show", PRINTED.values(), ids=PRINTED)
    def test_it_is_hidden(self, show: Callable[[], str]) -> None:
        assert HIDDEN in show()
        assert VALUE not in show()

    @pytest.mark.parametrize("line", ["%s", "%r", "token=%s", "%(token)s"])
    def test_a_log_line_hides_it(self, line: str, caplog: pytest.LogCaptureFixture) -> None:
        arguments = ({"token": SECRET},) if "(" in line else (SECRET,)
        logging.getLogger("test").warning(line, *arguments)
        assert HIDDEN in caplog.text
        assert VALUE not in caplog.text

    def test_a_logged_exception_hides_it(self, caplog: pytest.LogCaptureFixture) -> None:
        try:
            fail(SECRET)
        except ValueError:
            logging.getLogger("test").exception("failed with %s", SECRET)
        assert "Traceback" in caplog.text
        assert VALUE not in caplog.text

    def test_a_traceback_with_locals_hides_it(self) -> None:
        with pytest.raises(ValueError, match="Secret") as caught:
            fail(SECRET)
        shown = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
        )
        assert f"token = {HIDDEN}" in shown
        assert VALUE not in shown

    def test_print_hides_it(self) -> None:
        out = io.StringIO()
        print(SECRET, [SECRET], file=out)
        assert VALUE not in out.getvalue()


class TestLeaving:
    @pytest.mark.parametrize("serialize", SERIALIZED.values(), ids=SERIALIZED)
    def test_it_is_refused(self, serialize: Callable[[object], object]) -> None:
        with pytest.raises(TypeError) as caught:
            serialize(SECRET)
        assert VALUE not in str(caught.value)

    @pytest.mark.parametrize(
        "serialize",
        [
            msgspec.json.encode,
            msgspec.msgpack.encode,
            msgspec.to_builtins,
            pickle.dumps,
        ],
    )
    @pytest.mark.parametrize("holder", [Held(SECRET), HeldStruct(SECRET)], ids=["class", "Struct"])
    def test_it_is_refused_inside_something(
        self, serialize: Callable[[object], object], holder: object
    ) -> None:
        with pytest.raises(TypeError) as caught:
            serialize(holder)
        assert VALUE not in str(caught.value)

    def test_as_a_key_of_json(self) -> None:
        with pytest.raises(TypeError):
            hash(SECRET)
        with pytest.raises(TypeError):
            json.dumps({"a": {SECRET}})

    def test_a_copy_is_the_same_secret(self) -> None:
        assert copy.copy(SECRET) is SECRET
        assert copy.deepcopy([SECRET])[0] is SECRET

    def test_it_has_no_dictionary_and_takes_no_attribute(self) -> None:
        assert not hasattr(SECRET, "__dict__")
        with pytest.raises(AttributeError):
            SECRET.value = "x"  # type: ignore[attr-defined]


class TestHolding:
    @given(st.text(st.characters(codec="utf-8")))
    def test_text_comes_out_as_it_went_in(self, text: str) -> None:
        assert Secret(text).reveal() == text
        assert Secret(text).reveal_bytes() == text.encode()

    @given(st.binary())
    def test_bytes_come_out_as_they_went_in(self, held: bytes) -> None:
        assert Secret(held).reveal_bytes() == held
        assert Secret(held) == Secret(held[:])

    def test_equal_values_are_equal(self) -> None:
        assert Secret(VALUE) == Secret(VALUE.encode())
        assert Secret(VALUE) != Secret(VALUE + "x")
        assert Secret("é") == Secret("é".encode())

    @pytest.mark.parametrize("other", [VALUE, VALUE.encode(), None, 0])
    def test_it_equals_nothing_that_is_no_secret(self, other: object) -> None:
        assert Secret(VALUE) != other

    def test_an_empty_one_is_false(self) -> None:
        assert not Secret("")
        assert not Secret(b"")
        assert SECRET

    def test_comparing_takes_no_shortcut(self) -> None:
        """The comparison is ``hmac.compare_digest``, and hashing, which is not, is refused."""
        assert "compare_digest" in Secret.__eq__.__code__.co_names
        with pytest.raises(TypeError):
            _ = {SECRET}
