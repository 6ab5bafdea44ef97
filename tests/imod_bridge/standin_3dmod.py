"""A stand-in for 3dmod, for tests: a program without windows that keeps 3dmod's manners, the bad ones above all.

Run as ``3dmod -W -L image model`` it speaks the line protocol on its standard input and error. A test plays the user
through a socket: `Desk.user` sends a command, such as a click, and gets the answer once 3dmod has dealt with it. Like
3dmod it does one thing at a time, so the user waits while it saves.

Manners kept: the answer to saving and opening comes before the work; a save renames the old file on the first time and
is written in pieces; of two lines that come together the second one waits for a third; lines over 255 bytes are split;
names end at blanks; an empty line or the end of the input stops it listening for good; while the image is being loaded
lines are answered and done later; a dialog blocks everything; opening leaves it in movie mode, where clicks make no
points; and it dies of a broken pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imod_bridge import fields
from imod_bridge.binary import sized_chunk, walk

FOLDER, DELAY, LOAD = "STANDIN_FOLDER", "STANDIN_DELAY_S", "STANDIN_LOAD_S"
_LINE_BUFFER = 255
_PIECES = 4
_LIFETIME_S = 60.0
_REQUIRED = {1: 1, 7: 1, 11: 5, 12: 5, 14: 2, 15: 4, 16: 4, 17: 3, 18: 1, 19: 1}
_KINDS = {0: 0, 1: 1 << 3, 2: 1 << 3 | 1 << 9}
_OF_OBJECT = {"OLBL", "MESH", "MEST", "CLIP", "IMAT", "MEPA", "SKLI", "OBST"}


# --- the model in memory


@dataclass
class Contour:
    """Points, sizes and whatever else belongs to a contour."""

    record: dict[str, Any]
    points: list[tuple[float, ...]] = field(default_factory=list)
    sizes: list[float] | None = None
    others: bytes = b""

    def encode(self) -> bytes:
        flat = [value for point in self.points for value in point]
        data = b"CONT" + fields.CONTOUR.pack({**self.record, "psize": len(self.points)})
        data += struct.pack(f">{len(flat)}f", *flat)
        if self.sizes is not None:
            data += sized_chunk("SIZE", struct.pack(f">{len(self.sizes)}f", *self.sizes))
        return data + self.others


@dataclass
class Item:
    """An object: its record, its contours, and its other chunks as they are."""

    record: dict[str, Any]
    contours: list[Contour] = field(default_factory=list)
    others: bytes = b""

    def encode(self) -> bytes:
        record = {**self.record, "contsize": len(self.contours)}
        contours = b"".join(contour.encode() for contour in self.contours)
        return b"OBJT" + fields.OBJECT.pack(record) + contours + self.others


@dataclass
class Document:
    """A model: its header, its objects, and the chunks behind them as they are."""

    header: dict[str, Any]
    items: list[Item]
    tail: bytes = fields.END_MARK

    @classmethod
    def new(cls) -> Document:
        item = Item({"drawmode": 1, "green": 1.0, "symbol": 1, "linewidth": 1})
        return cls({"name": b"IMOD-NewModel", "flags": 0x3400, "zscale": 1.0, "pixsize": 1.0}, [item])

    @classmethod
    def decode(cls, data: bytes) -> Document:
        chunks = walk(data)
        document = cls(fields.MODEL_HEADER.unpack(chunks[0].payload), [], b"")
        for chunk in chunks[1:]:
            item = document.items[-1] if document.items else None
            if chunk.id == "OBJT":
                document.items.append(Item(fields.OBJECT.unpack(chunk.payload)))
            elif item is not None and chunk.id == "CONT":
                record = fields.CONTOUR.unpack(chunk.payload)
                points = struct.iter_unpack(">3f", chunk.payload[fields.CONTOUR.size :])
                item.contours.append(Contour(record, list(points)))
            elif item is not None and chunk.id == "SIZE":
                item.contours[-1].sizes = [value for (value,) in struct.iter_unpack(">f", chunk.payload)]
            elif item is not None and chunk.id in ("LABL", "COST"):
                item.contours[-1].others += chunk.data
            elif item is not None and chunk.id in _OF_OBJECT:
                item.others += chunk.data
            else:
                document.tail += chunk.data
        return document

    def encode(self) -> bytes:
        header = fields.MAGIC + fields.MODEL_HEADER.pack({**self.header, "objsize": len(self.items)})
        return header + b"".join(item.encode() for item in self.items) + self.tail


# --- the program


class Standin:
    """The program: what it holds, and what it does with lines and with the user's commands."""

    def __init__(self, arguments: list[str]) -> None:
        self.folder = Path(os.environ[FOLDER])
        self.delay = float(os.environ.get(DELAY, "0.01"))
        self.loaded_at = time.monotonic() + float(os.environ.get(LOAD, "0"))
        self.loading = float(os.environ.get(LOAD, "0")) > 0
        self.ends_at = time.monotonic() + _LIFETIME_S
        self.image, self.name = Path(arguments[-2]), arguments[-1]
        self.listens = "-L" in arguments
        self.buffer = b""
        self.words: list[str] = []
        self.document = Document.new()
        self.model_mode = True
        self.changed = False
        self.first_save = True
        self.question = ""
        self.answer: str | None = None
        self.counts = {"saves": 0, "loads": 0, "lost_clicks": 0}
        self.control = socket.socket(socket.AF_UNIX)

    def run(self) -> None:
        """Start, and serve standard input and the user until the end."""
        (self.folder / "control").unlink(missing_ok=True)
        (self.folder / "pid").write_text(str(os.getpid()))
        self.control.bind(str(self.folder / "control"))
        self.control.listen()
        self.print("QStandardPaths: runtime directory not set")
        with self.image.open("rb"):
            pass
        if Path(self.name).exists():
            self.load(self.name)
            self.model_mode, self.counts["loads"] = True, 0
        else:
            self.print(f"Model file ({self.name}) not found: opening new model by that name.")
        self.print("Window id = 29360135")
        while time.monotonic() < self.ends_at:
            self.serve()

    def serve(self, only_user: bool = False) -> None:
        """One round of the event loop; in a dialog only the user is served."""
        sources: list[Any] = [self.control]
        if self.listens and not only_user:
            sources.append(sys.stdin.fileno())
        if self.loading and time.monotonic() >= self.loaded_at:
            self.loading = False
            words, self.words = self.words, []
            self.execute(words, deferred=True)
        ready = select.select(sources, [], [], 0.01)[0]
        if self.control in ready:
            self.serve_user()
        elif sys.stdin.fileno() in ready:
            self.serve_line()

    def serve_line(self) -> None:
        """Read a line as ``fgets`` does: from its own buffer if it can, whatever woke it up."""
        while b"\n" not in self.buffer and len(self.buffer) < _LINE_BUFFER:
            new = os.read(sys.stdin.fileno(), 4096)
            if not new:
                break
            self.buffer += new
        end = self.buffer.find(b"\n") + 1 or len(self.buffer)
        line, self.buffer = self.buffer[: min(end, _LINE_BUFFER)], self.buffer[min(end, _LINE_BUFFER) :]
        text = line.decode().rstrip("\r\n")
        if not text:
            self.reply(True)
            self.listens = False
            os.write(2, b"QSocketNotifier: noise that goes to standard error all the same\n")
            return
        words = [word for word in text.split(" ") if word]
        if self.loading:
            self.words += words
            self.reply(True)
        else:
            self.execute(words)

    def execute(self, words: list[str], deferred: bool = False) -> None:
        """Carry out the actions of a line and answer it."""
        succeeded: bool | None = True
        place = 0
        quits = False
        while place < len(words) and not quits:
            action = int(words[place]) if words[place].isdigit() else 0
            needed = _REQUIRED.get(action, 0)
            arguments = words[place + 1 : place + 1 + needed]
            if len(arguments) < needed:
                self.print(f"imodExecuteMessage: not enough values sent with action command {action}")
                succeeded = False
                break
            place += 1 + needed
            if action in (1, 2, 7):
                succeeded = None
                self.reply(True)
                if action != 2 and not self.open(arguments[0]):
                    break
                if action == 2:
                    self.save()
            elif action == 6:
                self.model_mode = place >= len(words) or int(words[place]) > 0
                place += 1
            elif action in (11, 12, 15, 16):
                if not self.set_properties(action, [int(word) for word in arguments]):
                    succeeded = False
                    break
            elif action == 10:
                self.print("Rubberband: 1 1 240 200")
            elif action == 13:
                self.print("ERROR: No slicer windows open")
            elif action == 4:
                quits = True
            elif action == 14:
                succeeded = False
                break
            elif action not in (3, 5, 8, 9, 17, 18, 19):
                self.print(f"imodExecuteMessage: action {action} not recognized")
                succeeded = False
                break
        if succeeded is not None and not deferred:
            self.reply(succeeded)
        if quits:
            self.quit()

    def set_properties(self, action: int, values: list[int]) -> bool:
        number = values[0] - 1 if values[0] > 0 else 0
        if number >= len(self.document.items):
            self.print("imodExecuteMessage: illegal object # sent with object property command")
            return False
        item = self.document.items[number]
        if action in (12, 16) and item.contours:
            return True
        if action in (11, 12):
            if values[1] >= 0:
                item.record["flags"] = item.record.get("flags", 0) & ~_KINDS[2] | _KINDS[values[1]]
            for name, value in zip(("symbol", "symsize", "pdrawsize"), values[2:], strict=True):
                if value >= 0:
                    item.record[name] = [1, 0, 2, 3][value & 7] if name == "symbol" else value
        elif values[1] >= 0:
            item.record["limit"] = values[1]
        self.changed |= len(self.document.items) > 1 or bool(item.contours)
        return True

    # files

    def save(self) -> None:
        """Write the model as 3dmod does: not at once, not atomically."""
        time.sleep(self.delay)
        self.mark_writing()
        if self.first_save and os.path.exists(self.name):
            os.replace(self.name, self.name + "~")
        self.first_save = False
        self.counts["saves"] += 1
        # What changes at each save although the user has drawn nothing.
        self.document.header.update(csum=self.counts["saves"], contour=self.counts["saves"] % 3)
        self.document.header["flags"] &= ~0x800
        data = self.document.encode()
        try:
            with open(self.name, "wb", buffering=0) as file:
                for start in range(0, len(data), len(data) // _PIECES + 1):
                    file.write(data[start : start + len(data) // _PIECES + 1])
                    time.sleep(self.delay)
        except OSError:
            return  # it tells so in a window
        finally:
            self.mark_writing()
        self.changed = False

    def mark_writing(self) -> None:
        """Count up: odd while the file is being written."""
        path = self.folder / "writing"
        number = int(path.read_text() or 0) if path.exists() else 0
        temporary = self.folder / "writing.new"
        temporary.write_text(str(number + 1))
        os.replace(temporary, path)

    def open(self, name: str) -> bool:
        """Open a model, after asking what to do with unsaved changes."""
        if self.changed:
            answer = self.ask("Save current model?")
            if answer == "cancel":
                return False
            if answer == "yes":
                self.save()
        self.load(name)
        return True

    def load(self, name: str) -> None:
        time.sleep(self.delay)
        self.name, self.changed, self.first_save, self.model_mode = name, False, True, False
        self.counts["loads"] += 1
        self.document = Document.decode(Path(name).read_bytes()) if os.path.exists(name) else Document.new()

    def ask(self, question: str) -> str:
        """Show a dialog, and do nothing else until the user has answered it."""
        self.question, self.answer = question, None
        while self.answer is None and time.monotonic() < self.ends_at:
            self.serve(only_user=True)
        self.question = ""
        return self.answer or "cancel"

    def quit(self) -> None:
        if self.changed:
            answer = self.ask("Save model before quitting?")
            if answer == "cancel":
                return
            if answer == "yes":
                self.save()
        sys.exit(0)

    # the user

    def serve_user(self) -> None:
        connection = self.control.accept()[0]
        with connection, connection.makefile("rw") as stream:
            command, *arguments = json.loads(stream.readline())
            refused = bool(self.question) and command not in ("answer", "state", "crash")
            result = "blocked" if refused else getattr(self, f"user_{command}")(*arguments)
            with contextlib.suppress(OSError):
                stream.write(json.dumps(result) + "\n")
                stream.flush()
        if not refused and command in ("close", "ask", "save_and_die", "save_slowly"):
            getattr(self, f"then_{command}")()

    def user_click(self, number: int, *point: float) -> str:
        """A click in the current mode; points go into the object of that number, from 1."""
        if not self.model_mode:
            self.counts["lost_clicks"] += 1
            return "movie mode"
        item = self.document.items[number - 1]
        limit = item.record.get("limit", 0)
        if not item.contours or (limit and len(item.contours[-1].points) >= limit):
            item.contours.append(Contour({}))
        contour = item.contours[-1]
        contour.points.append(point)
        if contour.sizes is not None:
            contour.sizes.append(-1.0)
        self.changed = True
        Path(self.name + "#autosave#").write_bytes(self.document.encode()[:-20])
        return "ok"

    def user_delete(self, number: int, contour: int) -> str:
        del self.document.items[number - 1].contours[contour]
        self.changed = True
        return "ok"

    def user_size(self, number: int, contour: int, point: int, size: float) -> str:
        changed = self.document.items[number - 1].contours[contour]
        changed.sizes = changed.sizes or [-1.0] * len(changed.points)
        changed.sizes[point] = size
        self.changed = True
        return "ok"

    def user_send_to_model_mode(self) -> str:
        """The user presses the button for it."""
        self.model_mode = True
        return "ok"

    def user_save(self) -> str:
        self.save()
        return "ok"

    def user_answer(self, answer: str) -> str:
        if not self.question:
            return "no question"
        self.answer = answer
        return "ok"

    def user_ask(self) -> str:
        """Open some dialog, such as the one for another file."""
        return "ok"

    def then_ask(self) -> None:
        self.ask("Open which file?")

    def user_close(self) -> str:
        """Close the main window."""
        return "ok"

    def then_close(self) -> None:
        self.quit()

    def user_crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def user_save_and_die(self) -> str:
        """Crash in the middle of writing the model."""
        return "ok"

    def then_save_and_die(self) -> None:
        self.mark_writing()
        Path(self.name).write_bytes(self.document.encode()[:-10])
        self.user_crash()

    def user_save_slowly(self) -> str:
        """Begin to save; the answer comes at once."""
        return "ok"

    def then_save_slowly(self) -> None:
        self.save()

    def user_state(self) -> dict[str, Any]:
        """What is in memory."""
        items = [
            {
                "name": item.record.get("name", b"").split(b"\0")[0].decode("latin-1"),
                "flags": item.record.get("flags", 0),
                "limit": item.record.get("limit", 0),
                "symbol": item.record.get("symbol", 0),
                "symsize": item.record.get("symsize", 0),
                "pdrawsize": item.record.get("pdrawsize", 0),
                "points": [contour.points for contour in item.contours],
                "sizes": [contour.sizes for contour in item.contours],
            }
            for item in self.document.items
        ]
        state = ("model_mode", "changed", "listens", "question", "name")
        return {"items": items, **{name: getattr(self, name) for name in state}, **self.counts}

    # its standard error

    def print(self, text: str) -> None:
        if self.listens or self.loading:
            os.write(2, text.encode() + b"\n")

    def reply(self, succeeded: bool) -> None:
        self.print("OK" if succeeded else "ERROR")


def main() -> None:
    """Run as 3dmod."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if len(sys.argv) < 3 or not Path(sys.argv[-2]).is_file():
        print("ERROR: 3dmod - could not open the image", file=sys.stderr)
        sys.exit(3)
    Standin(sys.argv[1:]).run()


# --- for the tests


class Desk:
    """A computer with the stand-in installed as IMOD, and a user in front of it."""

    def __init__(self) -> None:
        # Not in pytest's folder: the name of a socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="desk-"))
        self.imod = self.folder / "imod"
        program = self.imod / "bin" / "3dmod"
        program.parent.mkdir(parents=True)
        root = Path(__file__).resolve().parents[2]
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
            "from tests.imod_bridge.standin_3dmod import main\nmain()\n"
        )
        program.chmod(0o755)
        self.environment = {"IMOD_DIR": str(self.imod), FOLDER: str(self.folder), DELAY: "0.005"}

    def user(self, command: str, *arguments: Any) -> Any:
        """Do something in 3dmod; gives its answer, None if it dies of it."""
        deadline = time.monotonic() + 5.0
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.folder / "control"))
                break
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.settimeout(10.0)
        with connection, connection.makefile("rw") as stream:
            stream.write(json.dumps([command, *arguments]) + "\n")
            stream.flush()
            try:
                return json.loads(stream.readline() or "null")
            except ConnectionError:
                return None

    def state(self) -> dict[str, Any]:
        """What 3dmod has in memory."""
        return dict(self.user("state"))

    def wait_for(self, name: str, value: Any, timeout_s: float = 5.0) -> None:
        """Wait until something is true of 3dmod's state."""
        deadline = time.monotonic() + timeout_s
        while self.state()[name] != value:
            assert time.monotonic() < deadline, f"{name} is not {value!r}: {self.state()}"
            time.sleep(0.005)

    def writing(self) -> int:
        """Odd while 3dmod is writing the model."""
        with contextlib.suppress(FileNotFoundError):
            return int((self.folder / "writing").read_text())
        return 0

    @property
    def pid(self) -> int:
        """The stand-in's process."""
        return int((self.folder / "pid").read_text())

    def is_running(self) -> bool:
        """Whether there is a stand-in that has not ended."""
        try:
            # The command line of a process that has ended, but was not waited for, is empty.
            return str(self.folder) in Path(f"/proc/{self.pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def clear(self) -> None:
        """End the stand-in and remove everything."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
