//! sentence-transformers on the same texts, in an interpreter that stays open between turns.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Times;

/// Reads the texts, then answers every number of threads with the seconds that it took.
const PROGRAM: &str = r#"
import json, os, sys, time
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import torch, sentence_transformers
model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
model.max_seq_length = 256
texts = json.loads(sys.stdin.readline())
model.encode(texts[:64], batch_size=32, normalize_embeddings=True, show_progress_bar=False)
print(f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}", file=answer, flush=True)
for line in sys.stdin:
    torch.set_num_threads(int(line))
    wall, processor = time.perf_counter(), time.process_time()
    model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    print(time.perf_counter() - wall, time.process_time() - processor, file=answer, flush=True)
"#;

/// An interpreter with the model loaded.
pub(super) struct Python {
    /// The versions of what does the work.
    pub(super) version: String,
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// Starts it and loads the model.
    pub(super) fn start(interpreter: &Path, model: &Path, texts: &[&str]) -> Result<Self> {
        let mut process = Command::new(interpreter)
            .arg("-c")
            .arg(PROGRAM)
            .arg(model)
            .env("HF_HUB_OFFLINE", "1")
            .env("TOKENIZERS_PARALLELISM", "false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("--python {}", interpreter.display()))?;
        let (questions, answers) = process.stdin.take().zip(process.stdout.take()).context("no pipe to Python")?;
        let mut python = Self { version: String::new(), process, questions, answers: BufReader::new(answers) };
        let texts = serde_json::to_string(texts)?;
        python.version = python
            .ask(&texts)
            .with_context(|| format!("--python {}: it needs sentence-transformers and torch", interpreter.display()))?;
        Ok(python)
    }

    /// The time of all texts on so many threads.
    pub(super) fn embed(&mut self, threads: usize) -> Result<Times> {
        let answer = self.ask(&threads.to_string()).context("sentence-transformers")?;
        let (wall, processor) = answer.split_once(' ').context("two numbers were expected of Python")?;
        Ok(Times { wall: wall.parse()?, processor: processor.parse()? })
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.questions, "{line}").context("it does not read")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim() {
            "" => bail!("it ended without an answer"),
            answer => Ok(answer.to_owned()),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // Nothing is left to do for it, and it may have ended.
        if self.process.kill().is_ok() {
            self.process.wait().map(drop).unwrap_or_default();
        }
    }
}
