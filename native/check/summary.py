"""A short table of a folder of results of gpu-check.sh. Prints nothing but the table; never fails."""

import json
import pathlib
import sys


def load(folder, name):
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def number(value, scale=1.0, digits=3):
    return "-" if not isinstance(value, (int, float)) else f"{value / scale:.{digits}g}"


def verdicts(result, name):
    for section in result.get("sections", []):
        items = section["items"]
        failed = [item for item in items if item.get("passed") is False]
        skipped = [item for item in items if item.get("skipped")]
        print(f"  {name}: {section['name']}: {len(items) - len(failed) - len(skipped)} passed, {len(failed)} failed, {len(skipped)} skipped")
        for item in failed[:4]:
            print(f"    FAILED {item['name']}: {item.get('error', '')[:160]}")


def benchmark(result):
    for section in result.get("sections", []):
        for item in section["items"]:
            name = f"{section['name']}: {item['name']}"
            if "exactSeconds" in item:
                print(
                    f"  {name:44} exact {number(item['exactSeconds'], 1e-6):>8} us, {number(item.get('exactBytesPerSecond'), 1e12):>5} TB/s,"
                    f" {number(item.get('exactFlopPerSecond'), 1e12):>5} TFLOP/s, share {number(item.get('exactShareOfLimit'), 1, 2):>5};"
                    f" over cuBLASLt {number(item.get('exactOverFast'), 1, 3)}"
                )
            elif "flopPerSecond" in item:
                print(f"  {name:44} {number(item['flopPerSecond'], 1e12)} TFLOP/s {item.get('note', '')}")
            elif "tokensPerSecond" in item:
                print(
                    f"  {name:44} {number(item['tokensPerSecond'], 1, 5):>8} tokens/s, {number(item.get('seconds'), 1e-3, 4):>7} ms,"
                    f" share {number(item.get('shareOfLimit'), 1, 2)}"
                )
            elif "bytesPerSecond" in item:
                print(f"  {name:44} {number(item['bytesPerSecond'], 1e12)} TB/s, share {number(item.get('shareOfLimit'), 1, 2)}")
            elif "prefillGain" in item:
                print(
                    f"  {name:44} {item['multiprocessors']} multiprocessors: prefill {number(item['prefillGain'], 1, 3)} x equal,"
                    f" decode {number(item['decodeGain'], 1, 3)} x equal"
                )
            elif "unavailable" in item:
                print(f"  {name:44} unavailable: {item['unavailable'][:140]}")


def moves(result):
    for section in result.get("sections", []):
        for item in section["items"]:
            name = f"{section['name']}: {item['name']}"
            if "evictBytesPerSecond" in item:
                print(
                    f"  {name:44} evict {number(item['evictBytesPerSecond'], 1e9)} GB/s of {number(item['linkToHostBytesPerSecond'], 1e9)},"
                    f" reload {number(item['reloadBytesPerSecond'], 1e9)} of {number(item['linkToDeviceBytesPerSecond'], 1e9)},"
                    f" both {number(item['bothBytesPerSecond'], 1e9)}"
                )
            elif "neededReloadSeconds" in item:
                print(
                    f"  {name:44} {number(item['seconds'], 1e-3, 4)} ms; beside evict {number(item['besideEvictSeconds'], 1e-3, 4)},"
                    f" beside reload {number(item['besideReloadSeconds'], 1e-3, 4)}, after reload {number(item['neededReloadSeconds'], 1e-3, 4)}"
                )


def peer(result):
    limits = result.get("limits", {})
    print(
        f"  torch {result.get('torch')}: copy {number(limits.get('copyBytesPerSecond'), 1e12)} TB/s, matrix "
        f"{number(limits.get('matrixFlopPerSecond'), 1e12)} TFLOP/s"
    )
    for shape, kinds in result.get("shapes", {}).items():
        for kind in ("decode", "prefill"):
            for entry in kinds.get(kind, []):
                text = entry.get("error") or entry.get("skipped") or (
                    f"{number(entry.get('tokensPerSecond'), 1, 5)} tokens/s, {number(entry.get('seconds'), 1e-3, 4)} ms"
                )
                print(f"  torch {shape} {kind} {entry['batch']} x {entry['context']}: {text[:140]}")


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in ("kernels", "goldens", "memcheck", "racecheck", "bench", "steps", "moves", "partitions"):
        result = load(folder, name)
        if result is None:
            continue
        verdicts(result, name)
        if name in ("bench", "steps", "partitions"):
            benchmark(result)
        if name == "moves":
            moves(result)
    result = load(folder, "peer")
    if result is not None:
        peer(result)


if __name__ == "__main__":
    main()
