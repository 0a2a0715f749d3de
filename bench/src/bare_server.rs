//! The bare route that reads are compared with: axum and a JSON of a given size.

use anyhow::{Context, Result};
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use hyper::body::Bytes;
use std::{process::Stdio, time::Duration};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};
use waybill_stack::ports::{free_port, loopback};

/// The server binds immediately; a busy machine may take longer to start the process.
const READY_WAIT_MAX: Duration = Duration::from_secs(10);

/// Serves the route on a loopback port until the process is ended.
pub async fn serve(port: u16, bytes: usize) -> Result<()> {
    let empty = r#"{"filler":""}"#;
    let body = Bytes::from(format!(r#"{{"filler":"{}"}}"#, "x".repeat(bytes.saturating_sub(empty.len()))));
    let route = get(move || {
        let body = body.clone();
        async move { ([(CONTENT_TYPE, "application/json")], body).into_response() }
    });
    let listener = TcpListener::bind(loopback(port)).await?;
    Ok(axum::serve(listener, Router::new().route("/", route)).await?)
}

/// The process of the bare server; dropping it ends the process.
pub struct BareServer {
    child: Child,
    port: u16,
}

impl BareServer {
    /// Starts the server and waits until it listens.
    pub async fn start(bytes: usize) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["bare", &port.to_string(), &bytes.to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the bare server")?;
        let server = Self { child, port };
        let listens = async {
            while tokio::net::TcpStream::connect(server.address()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(READY_WAIT_MAX, listens).await.context("the bare server does not listen")?;
        Ok(server)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        loopback(self.port).to_string()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}
