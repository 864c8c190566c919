//! A door before a server: real connections pass through it, until it is shut or lets nothing through any more.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::config::Host;

/// What is behind it.
#[derive(Debug, Clone)]
enum Behind {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Connections are refused, and those that were there are cut.
    Down,
    /// Connections are taken, and nothing is answered on any.
    Hanging,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    behind: Behind,
    /// True while nothing passes.
    hangs: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Gate {
    pub(crate) async fn before(address: SocketAddr) -> Self {
        Self::open_before(Behind::Tcp(address)).await
    }

    /// A gate before a PostgreSQL, and the URL that leads through it.
    pub(crate) async fn before_database(url: &str) -> (Self, String) {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let behind = match &config.get_hosts()[0] {
            Host::Unix(dir) => Behind::Unix(dir.join(format!(".s.PGSQL.{port}"))),
            Host::Tcp(host) => {
                Behind::Tcp(tokio::net::lookup_host((host.as_str(), port)).await.unwrap().next().unwrap())
            }
        };
        let gate = Self::open_before(behind).await;
        let user = config.get_user().unwrap();
        let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).unwrap();
        let database = config.get_dbname().unwrap();
        let url = format!("postgresql://{user}:{password}@{}/{database}", gate.address);
        (gate, url)
    }

    async fn open_before(behind: Behind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hangs, _) = watch::channel(false);
        let mut gate = Self { address: listener.local_addr().unwrap(), behind, hangs, task: None };
        gate.listen(listener);
        gate
    }

    fn listen(&mut self, listener: TcpListener) {
        let (behind, hangs) = (self.behind.clone(), self.hangs.clone());
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, behind.clone(), hangs.subscribe()));
            }
        }));
    }

    pub(crate) async fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Hanging => drop(self.hangs.send_replace(true)),
            Fault::Down => {
                if let Some(task) = self.task.take() {
                    task.abort();
                    // Its listener and connections are gone with it.
                    drop(task.await);
                }
            }
        }
    }

    pub(crate) async fn recover(&mut self) {
        self.hangs.send_replace(false);
        if self.task.is_none() {
            let listener = TcpListener::bind(self.address).await.unwrap();
            self.listen(listener);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Passes on until it is to hang; then the connection stays, and ends when the gate opens again.
async fn pass(mut stream: TcpStream, behind: Behind, mut until: watch::Receiver<bool>) {
    let passing = async {
        match behind {
            Behind::Tcp(address) => {
                if let Ok(mut other) = TcpStream::connect(address).await {
                    drop(copy_bidirectional(&mut stream, &mut other).await);
                }
            }
            Behind::Unix(path) => {
                if let Ok(mut other) = UnixStream::connect(path).await {
                    drop(copy_bidirectional(&mut stream, &mut other).await);
                }
            }
        }
    };
    tokio::select! {
        biased;
        changed = until.wait_for(|hangs| *hangs) => drop(changed),
        () = passing => return,
    }
    drop(until.wait_for(|hangs| !*hangs).await);
}
