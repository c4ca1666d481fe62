"""Several processes that train together, as torchrun starts them: who is who, and what they share.

Process 0 leads: it alone talks to MLflow, writes checkpoints and judges. The others follow; they
hear from it what comes next. A process alone is a team, too, whose exchanges do nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

import catdog
from catdog import CatdogError, interrupts
from catdog.parallel import cores
from catdog.training import launch
from catdog.training.alive import BROKEN, FAILED, STOPPED, Signs

Item = TypeVar("Item")
Order = dict[str, Any]

WAIT = datetime.timedelta(days=1)
"""How long others wait for process 0, which may download and prepare meanwhile."""

LOOK = datetime.timedelta(seconds=5)
"""How often process 0, while it waits for the others, looks whether they live; and how long it
waits for them once it has failed."""

STEP = datetime.timedelta(minutes=10)
"""How long a step on a GPU may wait for the others."""


class Ended(Exception):  # noqa: N818
    """Process 0 has nothing more to be done."""


class Team:
    """The processes of one training. This one is alone, and its exchanges do nothing."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        """Which of `count` things in a row are this process's; parts differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def tell(self, order: Order) -> None:
        """Say to those that follow what comes next."""

    def hear(self) -> Order:
        """What process 0 says next.

        Raises:
            Ended: it has nothing more to say.
        """
        raise Ended

    def in_step(self, items: Iterable[Item]) -> Iterable[Item]:
        """The same items, each once process 0 goes on to it."""
        return items

    def wait(self) -> None:
        """Wait until all are here."""

    def first(self) -> contextlib.AbstractContextManager[None]:
        """What is inside is done by process 0, and then by the others."""
        return contextlib.nullcontext()

    def total(self, number: int) -> int:
        """The sum of what all give."""
        return number

    def whole(self, mine: Tensor, count: int) -> Tensor:  # noqa: ARG002
        """All `count` values `(count,)`, where each process gives those of its part."""
        return mine

    def add_up(self, loss: Tensor, learning: Sequence[nn.Parameter]) -> Tensor:  # noqa: ARG002
        """Replace gradients by their sums over all processes; return the sum of the losses."""
        return loss

    def match(
        self, told: Order, tensors: Mapping[str, Tensor]
    ) -> tuple[Order, Mapping[str, Tensor]]:
        """What process 0 gives, on all."""
        return told, tensors

    def leading(self) -> contextlib.AbstractContextManager[None]:
        """While inside, the end of another process is told as a CatdogError."""
        return contextlib.nullcontext()

    def following(self) -> contextlib.AbstractContextManager[None]:
        """What those that follow do inside: how it fails is known to process 0."""
        return contextlib.nullcontext()


SOLO = Team()
"""A process alone."""


class Ranks(Team):
    """One of several processes."""

    def __init__(self) -> None:
        """Meet the others, as the environment that torchrun sets says."""
        if torch.cuda.is_available():
            torch.cuda.set_device(launch.local_rank() % torch.cuda.device_count())
        torch.set_num_threads(cores())
        store, self.rank, self.size = next(iter(rendezvous("env://")))
        # torchrun's store outlives a restart, and remembers where those before listened.
        shared = PrefixStore(f"catdog/{launch.restarts()}/{self.size}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, store=shared, rank=self.rank, world_size=self.size, timeout=STEP
        )
        self._words = _gloo_group()
        self._signs = Signs(shared, self.rank, self.size)
        self._gone = False
        self.wait()

    def tell(self, order: Order) -> None:
        """Say to those that follow what comes next."""
        self._send(json.dumps(order).encode())

    def hear(self) -> Order:
        """What process 0 says next.

        Raises:
            Ended: it has nothing more to say.
        """
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=self._words)
        if not length:
            raise Ended
        content = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, 0, group=self._words)
        order: Order = json.loads(content.numpy().tobytes())
        return order

    def in_step(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each once process 0 goes on to it."""
        for item in items:
            if self.rank == 0:
                self.tell({})
            else:
                self.hear()
            yield item

    def wait(self) -> None:
        """Wait until all are here."""
        self._finish(dist.barrier(group=self._words, async_op=True))

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """What is inside is done by process 0, and then by the others.

        Where it fails, the others do not begin: their end follows from that of process 0.
        """
        if self.rank:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def total(self, number: int) -> int:
        """The sum of what all give."""
        value = torch.tensor([number])
        self._finish(dist.all_reduce(value, group=self._words, async_op=True))
        return int(value)

    def whole(self, mine: Tensor, count: int) -> Tensor:
        """All `count` values `(count,)`, where each process gives those of its part."""
        room = -(-count // self.size)
        padded = mine.new_zeros(room)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._finish(dist.all_gather(parts, padded, async_op=True), padded)
        bounds = [count * rank // self.size for rank in range(self.size + 1)]
        return torch.cat([part[: bounds[r + 1] - bounds[r]] for r, part in enumerate(parts)])

    def add_up(self, loss: Tensor, learning: Sequence[nn.Parameter]) -> Tensor:
        """Replace gradients by their sums over all processes; return the sum of the losses."""
        # DistributedDataParallel adds up while gradients are computed: a process that runs out of
        # memory there, and tries again with half its part, would leave the others out of step.
        # Nor does its mean over processes weigh parts that differ, or are empty.
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learning]
        known = torch.tensor([p.grad is not None for p in learning], dtype=torch.float32)
        flat = torch.cat([loss.reshape(1), known.to(loss), *(g.reshape(-1) for g in gradients)])
        self._finish(dist.all_reduce(flat, async_op=True), flat)
        sizes = [1, len(known), *(g.numel() for g in gradients)]
        total, known, *sums = flat.split(sizes)
        summed: Tensor = total.reshape(())
        for parameter, gradient, added, has in zip(
            learning, gradients, sums, known.tolist(), strict=True
        ):
            # Where nobody had any, none is what a process alone would have.
            parameter.grad = gradient.copy_(added.view_as(gradient)) if has else None
        return summed

    def match(
        self, told: Order, tensors: Mapping[str, Tensor]
    ) -> tuple[Order, Mapping[str, Tensor]]:
        """What process 0 gives, on all."""
        if self.rank == 0:
            forms = {
                name: [list(value.shape), str(value.dtype).split(".")[1], value.device.type]
                for name, value in tensors.items()
            }
            self.tell({"told": told, "forms": forms})
            for value in tensors.values():
                sent = value.contiguous()
                self._finish(dist.broadcast(sent, 0, async_op=True), sent)
            return told, tensors
        heard = self.hear()
        received = {
            name: torch.empty(shape, dtype=getattr(torch, kind), device=device)
            for name, (shape, kind, device) in heard["forms"].items()
        }
        for value in received.values():
            dist.broadcast(value, 0)
        return heard["told"], received

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """While inside, the end of another process is told as a CatdogError."""
        try:
            yield
        # The exchange fails, or torchrun, which notices too, sends a signal first.
        except (KeyboardInterrupt, RuntimeError) as error:
            interrupts.ignore()
            lost = self._signs.lost()
            if lost is None:
                raise
            raise CatdogError(lost) from error

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """What those that follow do inside: how it fails is known to process 0."""
        try:
            with interrupts.at_once():
                yield
        except Ended:
            raise
        except KeyboardInterrupt:
            self._signs.note(STOPPED, "")
            raise
        except CatdogError as error:
            self._signs.note(FAILED, str(error))
            raise
        except Exception as error:
            self._signs.note(BROKEN, (str(error).strip().splitlines() or [type(error).__name__])[0])
            if not _is_of_exchange(error):
                raise
            raise CatdogError(
                f"rank {self.rank} of {self.size}: the connection to the others broke."
            ) from error

    def leave(self, error: BaseException | None) -> None:
        """Say to those that follow that all is done, and part.

        After an error they may wait for something else, or compute for long: process 0 ends
        without them, and torchrun, or the connection that breaks, ends them.
        """
        if self.rank == 0 and not self._gone:
            with contextlib.suppress(RuntimeError):  # of one that has gone before
                self._take_leave(error)
        if self._gone:
            # Parting would wait for the exchange that lasts, here and when Python ends.
            atexit.register(_end_at_once, _status(error))
            return
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()

    def _take_leave(self, error: BaseException | None) -> None:
        nothing = torch.zeros(1, dtype=torch.int64)
        work = dist.broadcast(nothing, 0, group=self._words, async_op=True)
        if error is None:
            self._finish(work)
            return
        assert work is not None  # it is one for who takes part, as all do
        try:
            work.wait(LOOK)
        except RuntimeError:
            self._gone = not work.is_completed()

    def _send(self, content: bytes) -> None:
        length = torch.tensor([len(content)])
        self._finish(dist.broadcast(length, 0, group=self._words, async_op=True))
        sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._finish(dist.broadcast(sent, 0, group=self._words, async_op=True))

    def _finish(self, work: dist.Work | None, exchanged: Tensor | None = None) -> None:
        """Wait for an exchange; process 0 only for as long as all the others show that they live.

        Those that follow need not look: torchrun ends them when process 0, or its machine, is gone.
        """
        assert work is not None  # it is one for who takes part, as all do
        if self.rank or (exchanged is not None and exchanged.is_cuda):
            work.wait()
            return
        while True:
            try:
                work.wait(LOOK)
                return
            except RuntimeError:
                if work.is_completed():  # since then, or it has failed, which this raises
                    work.wait()
                    return
                if self._signs.vanished():
                    self._gone = True
                    raise


@contextlib.contextmanager
def joined() -> Iterator[Team]:
    """The team that this process belongs to, while it works with it."""
    if launch.size() == 1:
        yield SOLO
        return
    team = Ranks()
    try:
        yield team
    except BaseException as error:
        team.leave(error)
        raise
    team.leave(None)


def _end_at_once(status: int) -> None:
    """End this process, which has said why, without parting from anything."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(error: BaseException | None) -> int:
    """With which a process ends that ended with an error; see `catdog.cli.run`."""
    if isinstance(error, KeyboardInterrupt):
        return catdog.INTERRUPTED
    return catdog.FAILED if isinstance(error, CatdogError) else 1


def _gloo_group() -> dist.ProcessGroup:
    """For words and waiting: on the CPU, and with as much patience as it takes."""
    group = dist.new_group(backend="gloo", timeout=WAIT)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _is_of_exchange(error: Exception) -> bool:
    """Whether an exchange between processes has failed; Gloo says so only in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
