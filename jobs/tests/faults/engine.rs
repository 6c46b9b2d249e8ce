//! The engines under test: as an address, which worker processes get.

use std::future::Future;

#[cfg(feature = "sqlite")]
use tempfile::TempDir;

pub(crate) trait Engine: Sized + Send + Sync + 'static {
    const NAME: &'static str;

    fn is_installed() -> bool;
    fn create() -> impl Future<Output = Self> + Send;
    fn address(&self) -> String;
}

#[cfg(feature = "sqlite")]
pub(crate) struct Sqlite(TempDir);

#[cfg(feature = "sqlite")]
impl Engine for Sqlite {
    const NAME: &'static str = "sqlite";

    fn is_installed() -> bool {
        true
    }

    async fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn address(&self) -> String {
        self.0.path().join("jobs.db").display().to_string()
    }
}

#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{Postgres, stop_postgres};

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::{Arc, OnceLock};

    use parking_lot::Mutex;

    use super::Engine;
    use crate::server::{self, Server};

    static SERVER: OnceLock<Mutex<Option<Arc<Server>>>> = OnceLock::new();

    pub(crate) fn stop_postgres() {
        if let Some(server) = SERVER.get() {
            drop(server.lock().take());
        }
    }

    pub(crate) struct Postgres(String);

    impl Engine for Postgres {
        const NAME: &'static str = "postgresql";

        fn is_installed() -> bool {
            server::is_installed()
        }

        async fn create() -> Self {
            let server = SERVER.get_or_init(|| Mutex::new(Some(Arc::new(Server::create())))).lock().clone();
            Self(server.expect("tests run").create_database().await)
        }

        fn address(&self) -> String {
            self.0.clone()
        }
    }
}
