//! Between server and PostgreSQL: passes bytes on, until it is told to be slow, to cut, or to lose an answer.
//!
//! It knows nothing of the protocol but the eight bytes that confirm a COMMIT.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

const CHUNK: usize = 16 * 1024;
/// The tag of the message that confirms a COMMIT.
const COMMITTED: &[u8] = b"COMMIT\0";

/// A proxy on a port of its own. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    socket: PathBuf,
    /// Pause before each chunk, in microseconds.
    pause: AtomicU64,
    /// A connection is cut when this many more bytes have gone to PostgreSQL; negative for never.
    bytes_until_cut: AtomicI64,
    /// The next confirmation of a COMMIT is lost with its connection.
    lose_commit: AtomicBool,
    /// How often either has happened.
    cuts: AtomicU64,
}

impl Proxy {
    /// Listens on the loopback and connects to PostgreSQL's Unix socket.
    ///
    /// # Errors
    /// If no port is to be had.
    pub async fn start(socket: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the proxy")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            socket: socket.to_owned(),
            pause: AtomicU64::new(0),
            bytes_until_cut: AtomicI64::new(-1),
            lose_commit: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { port, state, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes every chunk wait; zero ends it.
    pub fn slow_down(&self, pause: Duration) {
        self.state.pause.store(pause.as_micros() as u64, Ordering::Relaxed);
    }

    /// Cuts the connection on which the n-th byte from now goes to PostgreSQL, in the middle of whatever it is.
    pub fn cut_after(&self, bytes: u64) {
        self.state.bytes_until_cut.store(bytes as i64, Ordering::Relaxed);
    }

    /// Cuts the connection on which the next COMMIT is confirmed, before the confirmation: it is stored, and the server
    /// does not know.
    pub fn lose_commit(&self) {
        self.state.lose_commit.store(true, Ordering::Relaxed);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::Relaxed)
    }

    /// Passes everything on again.
    pub fn behave(&self) {
        self.state.pause.store(0, Ordering::Relaxed);
        self.state.bytes_until_cut.store(-1, Ordering::Relaxed);
        self.state.lose_commit.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    // The end of a connection, for whatever reason, is what both sides then see.
                    drop(serve(stream, &state).await);
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, state: &State) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let postgres = UnixStream::connect(&state.socket).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_postgres, mut to_postgres) = postgres.into_split();
    let questions = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from_client.read(&mut chunk).await?;
            state.wait().await;
            let passed = state.questions_before_cut(read);
            to_postgres.write_all(chunk.get(..passed).unwrap_or_default()).await?;
            if read == 0 || passed < read {
                return std::io::Result::Ok(());
            }
        }
    };
    let answers = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from_postgres.read(&mut chunk).await?;
            let answer = chunk.get(..read).unwrap_or_default();
            state.wait().await;
            if read == 0 || state.loses(answer) {
                return std::io::Result::Ok(());
            }
            to_client.write_all(answer).await?;
        }
    };
    tokio::select! {
        ended = questions => ended,
        ended = answers => ended,
    }
}

impl State {
    async fn wait(&self) {
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > 0 {
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    /// How many of these bytes may pass. Fewer than all when the connection is to be cut.
    fn questions_before_cut(&self, read: usize) -> usize {
        let before = self.bytes_until_cut.load(Ordering::Relaxed);
        if before < 0 {
            return read;
        }
        let left = before - read as i64;
        // Another connection that takes the same bytes at the same time only shifts the cut a little.
        self.bytes_until_cut.store(left.max(-1), Ordering::Relaxed);
        if left >= 0 {
            return read;
        }
        self.cuts.fetch_add(1, Ordering::Relaxed);
        before as usize
    }

    fn loses(&self, answer: &[u8]) -> bool {
        let lost = self.lose_commit.load(Ordering::Relaxed)
            && answer.windows(COMMITTED.len()).any(|window| window == COMMITTED)
            && self.lose_commit.swap(false, Ordering::Relaxed);
        if lost {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Answers every byte with itself.
    async fn echo() -> (tempfile::TempDir, Proxy) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        let proxy = Proxy::start(&socket).await.unwrap();
        (dir, proxy)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
    }

    /// What comes back before the connection is cut.
    async fn until_cut(stream: &mut TcpStream, sent: &[u8]) -> usize {
        stream.write_all(sent).await.unwrap();
        let mut back = Vec::new();
        // The cut may show as an end or as an error.
        drop(stream.read_to_end(&mut back).await);
        assert!(sent.starts_with(&back));
        back.len()
    }

    #[tokio::test]
    async fn a_connection_is_cut_where_it_is_told_to_be_and_others_live() {
        let (_dir, proxy) = echo().await;
        let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
        proxy.cut_after(100);
        assert!(until_cut(&mut first, &[7; 300]).await <= 100);
        assert_eq!(proxy.cuts(), 1);
        second.write_all(&[7; 300]).await.unwrap();
        second.read_exact(&mut [0; 300]).await.unwrap();
    }

    #[tokio::test]
    async fn the_confirmation_of_a_commit_is_lost_once() {
        let (_dir, proxy) = echo().await;
        proxy.lose_commit();
        let mut stream = connect(&proxy).await;
        stream.write_all(b"BEGIN\0").await.unwrap();
        stream.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(until_cut(&mut stream, b"COMMIT\0").await, 0);
        assert_eq!(proxy.cuts(), 1);
        let mut stream = connect(&proxy).await;
        stream.write_all(b"COMMIT\0").await.unwrap();
        stream.read_exact(&mut [0; 7]).await.unwrap();
    }
}
