"""One request, as whoever asked sees it: text as it grows, then an answer or an error; and it can be called off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Ended = Literal["stop", "length", "cancelled"]
YesOrNo = Literal["no", "yes"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The answer as far as it is written.

    Attributes:
        text: The whole text so far.
        delta: What was added since the piece before. Empty in the rare case that the tokenizer rewrites what came
            before (some close a gap before a full stop late): then ``text`` alone is right.
        tokens: Tokens so far.
    """

    text: str
    delta: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one request.

    Attributes:
        name: The variant.
        text: The answer without special tokens and without white space at its ends.
        tokens: Tokens of the answer, its end token counted.
        prompt_tokens: Tokens of the prompt.
        waited_seconds: From asking to the start of its pass.
        first_token_seconds: From the start of its pass to its first token. A beam search knows no token before all
            are known. 0 if there was none.
        seconds: From the start of its pass to its end.
        tokens_per_second: ``tokens`` by ``seconds``, as the asker sees it: passes that run side by side share the
            machine.
        ended: ``"stop"``: by its own end token; ``"length"``: cut at the most tokens; ``"cancelled"``: by the asker.
        truncated: ``"yes"`` if the end of the input was cut off for being too long.
    """

    name: str
    text: str
    tokens: int
    prompt_tokens: int
    waited_seconds: float
    first_token_seconds: float
    seconds: float
    tokens_per_second: float
    ended: Ended
    truncated: YesOrNo

    @property
    def first_token_after_asking_seconds(self) -> float:
        """From asking to the first token: the wait in the queue and the start of the pass together."""
        return self.waited_seconds + self.first_token_seconds


class Request:
    """What the service knows of a request. The service's side of :class:`Asked`.

    Args:
        name: The variant, as the asker calls it.
        prompt_tokens: Tokens of the prompt.
        truncated: Whether the end of the input was cut off.
        on_drop: Called when it is called off. It must take no lock.
    """

    def __init__(
        self, name: str, *, prompt_tokens: int, truncated: YesOrNo, on_drop: Callable[[], object] | None = None
    ) -> None:
        self.name = name
        self.prompt_tokens = prompt_tokens
        self.truncated = truncated
        self.changed = threading.Condition()
        self.text = ""
        self.tokens = 0
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.called_off = False
        self._on_drop = on_drop
        self._asked_at = time.perf_counter()
        self._started_at: float | None = None
        self._first_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None

    @property
    def started(self) -> bool:
        """Whether a pass has taken it up."""
        return self._started_at is not None

    def start(self) -> YesOrNo:
        """A pass takes it up, perhaps a second time (in a smaller batch).

        Returns:
            ``"no"`` if it is over or was called off, so that there is nothing to do.
        """
        with self.changed:
            if self.over or self.called_off:
                return "no"
            if self._started_at is None:
                self._started_at = time.perf_counter()
            return "yes"

    def first_token(self) -> None:
        """Its first token is known."""
        if self._first_at is None:
            self._first_at = time.perf_counter()

    def publish(self, text: str, tokens: int) -> None:
        """Show what is written so far."""
        with self.changed:
            # In a second try (a smaller batch) the same is written again: what was shown stays.
            if not self.over and (len(text) > len(self.text) or tokens > self.tokens):
                self.text = text if len(text) >= len(self.text) else self.text
                self.tokens = max(tokens, self.tokens)
                self.changed.notify_all()

    def finish(self, text: str, tokens: int, ended: Ended) -> None:
        """The answer is whole, or was called off."""
        now = time.perf_counter()
        started = self._started_at if self._started_at is not None else now
        seconds = now - started if self._started_at is not None else 0.0
        with self.changed:
            if self.over:
                return
            self.text, self.tokens = text, tokens
            self.answer = Answer(
                name=self.name,
                text=text,
                tokens=tokens,
                prompt_tokens=self.prompt_tokens,
                waited_seconds=started - self._asked_at,
                first_token_seconds=self._first_at - started if self._first_at is not None else 0.0,
                seconds=seconds,
                tokens_per_second=tokens / seconds if seconds else 0.0,
                ended=ended,
                truncated=self.truncated,
            )
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        with self.changed:
            if not self.over:
                self.error = error
                self.changed.notify_all()

    def call_off(self) -> None:
        """The asker does not want it any more.

        It takes no lock but the request's own, so that it may also happen while an object is being freed.
        """
        with self.changed:
            if self.over or self.called_off:
                return
            self.called_off = True
            if self._started_at is None:
                self.finish("", 0, "cancelled")
        if self._on_drop is not None:
            self._on_drop()


class Asked:
    """A question on its way. Iterate over it for the text as it grows, or wait for the whole ``result``.

    Leaving the loop early (``break``, an exception, Ctrl-C) calls the request off, and so does letting go of the
    object: what nobody can read is not written. It can be iterated over more than once, also when it is over.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def name(self) -> str:
        """The variant that was asked."""
        return self._request.name

    @property
    def truncated(self) -> YesOrNo:
        """``"yes"`` if the end of the input was cut off for being too long."""
        return self._request.truncated

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._request.prompt_tokens

    @property
    def state(self) -> Literal["queued", "running", "over"]:
        """Where it is."""
        if self._request.over:
            return "over"
        return "running" if self._request.started else "queued"

    def cancel(self) -> None:
        """Call it off. In the queue it gives up its place at once; while it is written, at the next token."""
        self._request.call_off()

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the answer.

        Args:
            timeout: Seconds to wait; None without end.

        Raises:
            TimeoutError: It is not over by then. It goes on being written.
            ServingError: There is no answer; the message says why.
        """
        request = self._request
        try:
            with request.changed:
                over = request.changed.wait_for(lambda: request.over, timeout)
        except BaseException:  # Ctrl-C
            self.cancel()
            raise
        if not over:
            raise TimeoutError(f"{self.name!r} has not answered within {timeout} seconds.")
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    def __iter__(self) -> Iterator[Piece]:
        """The text as it grows. A slow reader gets several tokens at once and never an old text.

        Raises:
            ServingError: There is no answer; the message says why.
        """
        request, shown, tokens = self._request, "", 0
        try:
            while True:
                with request.changed:
                    while not request.over and (request.text, request.tokens) == (shown, tokens):
                        request.changed.wait()
                    now, count, error = request.text, request.tokens, request.error
                    over = request.over
                if error is not None:
                    raise error
                if (now, count) != (shown, tokens):
                    delta = now[len(shown) :] if now.startswith(shown) else ""
                    shown, tokens = now, count
                    yield Piece(text=now, delta=delta, tokens=count)
                if over:
                    return
        finally:
            self.cancel()  # of no effect if it is over

    def __del__(self) -> None:
        request = getattr(self, "_request", None)
        if request is not None:
            request.call_off()
