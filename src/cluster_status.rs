//! `srs-proxy cluster status`: asks a node what it sees of the cluster, and says it to people.

mod fetch;
mod table;

use std::{io, time::Duration};

use crate::{config::status_target::StatusTarget, server::system::cluster::ClusterView};

/// What a node says of the cluster.
#[derive(Debug)]
pub struct Status {
    body: String,
    view: ClusterView,
}

/// Why there is no status. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing listens there, or the connection broke.
    #[error("{api} cannot be asked: {why}")]
    Unreachable {
        /// The URL of the system API.
        api: String,
        /// What went wrong.
        why: String,
    },
    /// The time was over.
    #[error("{api} has not answered within {limit:?} (--timeout)")]
    Silent {
        /// The URL of the system API.
        api: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It answers, but not with a status.
    #[error("{api} gives no status of the cluster: {why}")]
    Unusable {
        /// The URL of the system API.
        api: String,
        /// What it answered instead.
        why: String,
    },
    /// The runtime of this process could not be started.
    #[error("cannot ask: {0}")]
    Runtime(#[from] io::Error),
}

impl Status {
    /// Asks, and waits for the answer.
    pub fn fetch(target: &StatusTarget) -> Result<Self, StatusError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let fetched = runtime.block_on(fetch::fetch(target));
        // A name that does not resolve is not waited for.
        runtime.shutdown_background();
        let body = fetched?;
        let unusable = |error: &dyn std::fmt::Display| StatusError::Unusable {
            api: target.api.to_string(),
            why: error.to_string(),
        };
        let body = String::from_utf8(body.into()).map_err(|error| unusable(&error))?;
        let view = serde_json::from_str(&body).map_err(|error| unusable(&error))?;
        Ok(Self { body, view })
    }

    /// Whether the node serves, can place streams, and sees the same serving nodes as all others.
    pub fn is_well(&self) -> bool {
        let ClusterView { state, ready, stable, .. } = &self.view;
        state == "serving" && *ready && *stable
    }

    /// The answer as it came.
    pub fn to_json(&self) -> String {
        format!("{}\n", self.body.trim_end())
    }

    /// The answer as a table for people, in ASCII.
    pub fn to_table(&self) -> String {
        table::render(&self.view)
    }
}
