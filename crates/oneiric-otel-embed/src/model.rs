//! The model as callers see it: loaded from a directory, it turns texts into vectors.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::chunk::{group, spread};
use crate::config::Config;
use crate::encoder::{Encoder, Workspace};
use crate::gate::Gate;
use crate::int8::Int8;
use crate::linear::Arithmetic;
use crate::tokens::Pieces;
use crate::weights::WeightFile;
use crate::{EmbedError, Instructions, LoadError, Precision};

/// The name under which [`MiniLm::load`] presents its vectors.
pub const NAME: &str = "all-MiniLM-L6-v2";

/// Texts that a thread tokenises at a time.
const TEXTS_PER_TURN: usize = 32;

/// How long a chunk of a call with many texts lets calls with one text go first.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// All models of the process share its processors.
static GATE: Gate = Gate::new(LONGEST_WAIT);

/// A sentence-embedding model of the BERT family, in memory.
///
/// Takes some 90 MB for all-MiniLM-L6-v2 in f32, 60 MB in int8, and some MB more per thread once it has worked. Texts are cut
/// after 256 word pieces, as sentence-transformers does for this model; vectors are the mean over the pieces, scaled to length 1.
///
/// The same text gives the same bits on the same machine, whatever else is in the call and whatever the number of threads; in
/// [`Precision::Int8`] also on other machines.
///
/// A call with one text goes before calls with many, of whichever model in the process: these wait for it, for a moment, after
/// each chunk of some texts.
pub struct MiniLm {
    name: String,
    pieces: Pieces,
    encoder: Encoder,
    threads: usize,
    idle: Mutex<Vec<Workspace>>,
}

impl MiniLm {
    /// Loads all-MiniLM-L6-v2 from a directory with `model.safetensors`, `tokenizer.json` and `config.json`. It works on
    /// one thread until [`MiniLm::with_threads`] says otherwise.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model has another architecture or other sizes.
    pub fn load(dir: &Path, precision: Precision) -> Result<Self, LoadError> {
        Self::load_exact(dir, arithmetic(precision, Instructions::detect)?)
    }

    /// [`MiniLm::load`] in int8 with other instructions than the fastest: what a processor without those would take.
    ///
    /// # Errors
    /// As [`MiniLm::load`], and when this processor does not have the instructions.
    pub fn load_with(dir: &Path, instructions: Instructions) -> Result<Self, LoadError> {
        Self::load_exact(dir, arithmetic(Precision::Int8, || instructions)?)
    }

    fn load_exact(dir: &Path, arithmetic: Arithmetic) -> Result<Self, LoadError> {
        let path = dir.join("config.json");
        let config = Config::load(&path)?;
        let found = (config.layers, config.hidden, config.heads);
        if found != (6, 384, 12) {
            let reason = format!("it has (layers, hidden size, heads) {found:?}, {NAME} has (6, 384, 12)");
            return Err(LoadError::Unsupported { path, reason });
        }
        Self::load_shape(dir, NAME, &config, arithmetic)
    }

    /// Loads another model of the BERT family that takes the mean over word pieces as its vector, and presents its
    /// vectors as those of `name`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model has another architecture.
    pub fn load_as(dir: &Path, name: &str, precision: Precision) -> Result<Self, LoadError> {
        let arithmetic = arithmetic(precision, Instructions::detect)?;
        Self::load_shape(dir, name, &Config::load(&dir.join("config.json"))?, arithmetic)
    }

    fn load_shape(dir: &Path, name: &str, config: &Config, arithmetic: Arithmetic) -> Result<Self, LoadError> {
        let (pieces, encoder) = thread::scope(|scope| {
            let pieces = scope.spawn(|| Pieces::load(&dir.join("tokenizer.json"), config));
            let encoder = WeightFile::open(&dir.join("model.safetensors"))
                .and_then(|mut file| Encoder::load(config, arithmetic, &mut file));
            let pieces = pieces.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (pieces, encoder)
        });
        let (pieces, encoder) = (pieces?, encoder?);
        Ok(Self { name: name.to_owned(), pieces, encoder, threads: 1, idle: Mutex::default() })
    }

    /// Lets each call work on up to `threads` threads, at least one. A single text always takes one.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The name under which it presents its vectors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The precision of its arithmetic, which is part of what its vectors are.
    pub fn precision(&self) -> Precision {
        self.encoder.precision()
    }

    /// Components of a vector.
    pub fn dimension(&self) -> usize {
        self.encoder.dimension()
    }

    /// One vector of length 1 for each text, in the order of `texts`, with [`Self::dimension`] components. Blocks, and uses
    /// the processor.
    ///
    /// # Errors
    /// When a text cannot be tokenised, or the weights are damaged. There is no partial answer.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let _short = (texts.len() == 1).then(|| GATE.enter());
        let pieces = self.tokenise(texts)?;
        let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
        let chunks = group(&lengths, self.threads, self.encoder.pieces_at_once());
        let done = spread(chunks.len(), self.threads, |chunk| {
            if texts.len() > 1 {
                GATE.give_way();
            }
            let chunk: Vec<&[u32]> = chunks[chunk].iter().map(|&text| pieces[text].as_slice()).collect();
            self.run(&chunk)
        });

        let mut vectors = vec![Vec::new(); texts.len()];
        for (texts, chunk) in chunks.iter().zip(done) {
            for (&text, vector) in texts.iter().zip(chunk) {
                if !vector.iter().all(|value| value.is_finite()) {
                    return Err(self.error(format!(
                        "text {text} of the call gave a vector that is not finite; model.safetensors is damaged"
                    )));
                }
                vectors[text] = vector;
            }
        }
        Ok(vectors)
    }

    /// Word pieces that the model would read of `text`, at most the longest input it accepts.
    pub fn token_count(&self, text: &str) -> usize {
        // A text that cannot be tokenised fails when it is embedded; until then it counts as a long one.
        self.pieces.encode(text).map_or(self.pieces.longest(), |pieces| pieces.len())
    }

    fn tokenise(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, EmbedError> {
        let turns: Vec<_> = texts.chunks(TEXTS_PER_TURN).collect();
        let done = spread(turns.len(), self.threads, |turn| {
            turns[turn].iter().map(|text| self.pieces.encode(text)).collect::<Result<Vec<_>, _>>()
        });
        let mut all = Vec::with_capacity(texts.len());
        for turn in done {
            all.extend(turn.map_err(|reason| self.error(reason))?);
        }
        Ok(all)
    }

    fn run(&self, texts: &[&[u32]]) -> Vec<Vec<f32>> {
        let mut workspace = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let vectors = self.encoder.run(texts, &mut workspace);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Calls from many threads at once must not leave their memory behind for ever.
        if idle.len() < self.threads {
            idle.push(workspace);
        }
        vectors
    }

    fn error(&self, reason: String) -> EmbedError {
        EmbedError { model: self.name.clone(), reason }
    }
}

/// The arithmetic of a precision.
/// Without int8 nothing is asked of the processor and the system.
fn arithmetic(precision: Precision, instructions: impl FnOnce() -> Instructions) -> Result<Arithmetic, LoadError> {
    Ok(match precision {
        Precision::F32 => Arithmetic::F32,
        Precision::Int8 => Arithmetic::Int8(Int8::new(instructions())?),
    })
}

impl fmt::Debug for MiniLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiniLm")
            .field("name", &self.name)
            .field("precision", &self.precision())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
