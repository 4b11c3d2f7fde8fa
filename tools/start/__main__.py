"""Write a config that suits a folder of images, this device and the time there is.

python -m tools.start --data-path FOLDER [--weights FILE] [--minutes M] [--output FILE.yaml]

Looks at the data, the weights and the device, measures a model or two for some seconds, and says why it chose what.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from swin.config.messages import program_name
from swin.cpu import keep_freed_memory, num_cpus
from swin.distributed import setup_distributed
from swin.errors import ConfigError, printable
from swin.records import encode, write_atomically
from tools.arguments import command, number_type
from tools.start.choose import choose
from tools.start.look import look_at
from tools.start.rules import VAL_SPLIT
from tools.start.write import as_yaml, describe_facts, describe_plan, train_command


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    prog = program_name("swin-start", "python -m tools.start")
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n\n")[0])
    add, minutes = parser.add_argument, number_type("number of minutes above 0", lambda number: 0 < number < 1e6)
    add("--data-path", required=True, metavar="FOLDER", help="the images, in any layout that training reads")
    add("--weights", metavar="FILE", help="weights to start from, of any program; default: from scratch")
    add("--minutes", type=minutes, default=30.0, metavar="M", help="that training may take (default: 30)")
    add("--output", type=Path, metavar="FILE", help="the config to write; default: the folder's name with .yaml")
    add("--force", action="store_true", help="replace the config if it is there")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys that are decided already")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    name = re.sub(r"[^\w-]+", "_", Path(options.data_path).resolve().name).strip("_") or "images"
    file: Path = options.output or Path(f"{name}.yaml")
    if file.exists() and not options.force:
        raise ConfigError(f"{printable(str(file))} is there already. Give another --output, or --force to replace it.")
    if not os.access(file.parent, os.W_OK):  # said before the minute of measuring
        raise ConfigError(f"{printable(str(file.parent))} is no folder that can be written to. Give another --output.")
    dist = setup_distributed(options.device)
    if dist.device.type == "cpu":
        keep_freed_memory()
    facts = look_at(options.data_path, options.opts, VAL_SPLIT, num_cpus())
    for line in describe_facts(facts):
        print(printable(line))
    choice = choose(facts, options.weights, dist, options.minutes, file.stem, options.opts, print)
    plan, run = describe_plan(choice, dist.device), train_command(file)
    header = f"Written by tools.start for {printable(options.data_path)}: a start, to be changed.\n\n  {run}\n\n{plan}"
    text = as_yaml(choice.settings, header)
    for line in choice.tried:
        print(f"measured: {line}")
    print(f"\n{text}\n{plan}")
    if choice.cfg.TRAIN.EPOCHS == 1 and choice.seconds > 75 * options.minutes:
        print(f"warning: a single pass over the images takes longer than {options.minutes:g} min; give more --minutes")
    for warning in choice.warnings:
        print(f"warning: {warning}")
    write_atomically(file, encode(text))
    print(f"written to {printable(str(file))}. To train:\n\n    {run}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
