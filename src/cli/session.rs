//! What every command begins with: the node directory, a runtime, a client.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use super::exit::{Exit, Failure};
use super::neighbours;
use super::output::Speech;
use crate::client::{Client, ClientOptions};
use crate::config::{Located, NodeDir, locate};

/// The global options.
#[derive(Clone, Debug)]
pub struct Session {
    /// `-d`.
    pub given: Option<PathBuf>,
    /// `-q`.
    pub speech: Speech,
}

impl Session {
    /// Finds the node directory, which may be missing.
    ///
    /// # Errors
    /// The directory is something else.
    pub fn locate(&self) -> Result<Located, Failure> {
        Ok(locate(self.given.as_deref(), |name| std::env::var_os(name))?)
    }

    /// The node directory.
    ///
    /// # Errors
    /// There is none.
    pub fn node_dir(&self) -> Result<NodeDir, Failure> {
        Ok(self.locate()?.existing()?)
    }

    /// Opens the node directory and runs `work` with its client.
    ///
    /// # Errors
    /// It cannot be opened, or what `work` fails with.
    pub fn with_client<T, F>(&self, work: impl FnOnce(Arc<Client>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.with_client_as(ClientOptions::default(), work)
    }

    /// As [`Session::with_client`], for a command that works on a tree that may be mounted: mounts store what they have
    /// queued before, and hear of it after a command that `changes` something.
    ///
    /// # Errors
    /// As [`Session::with_client`].
    pub fn with_tree<T, F>(
        &self,
        changes: bool,
        options: ClientOptions,
        work: impl FnOnce(Arc<Client>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let dir = self.node_dir()?;
        neighbours::settle(self, &dir);
        let outcome = self.with_client_as(options, work);
        if changes {
            // What failed may have changed something too.
            neighbours::refresh(&dir);
        }
        outcome
    }

    /// As [`Session::with_client`], with a client that is opened in another way.
    ///
    /// # Errors
    /// As [`Session::with_client`].
    pub fn with_client_as<T, F>(
        &self,
        options: ClientOptions,
        work: impl FnOnce(Arc<Client>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let dir = self.node_dir()?;
        runtime()?.block_on(async {
            let client = Arc::new(Client::open(dir, options).await?);
            let outcome = work(Arc::clone(&client)).await;
            outcome.map_err(|failure| failure.with_servers(client.grid()))
        })
    }
}

/// A runtime with a worker for each core.
///
/// # Errors
/// The system has no threads to give.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::new(Exit::Failed, format!("threads cannot be started: {e}")))
}
