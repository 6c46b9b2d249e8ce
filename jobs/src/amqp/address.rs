//! Where a server is.

use std::fmt;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::ENGINE;
use crate::model::error::QueueError;

/// How often the server and the client tell each other that they live, in seconds, unless the URL says otherwise. A
/// side that hears nothing for twice as long closes the connection.
const HEARTBEAT: u16 = 15;

/// The address of a server, from a URL. It never shows the password.
#[derive(Clone)]
pub(crate) struct Address(AMQPUri);

impl Address {
    /// Reads a URL such as `amqp://user:password@host:5672/vhost`.
    ///
    /// # Errors
    /// If it is none. The error does not quote it, because it may have a password.
    pub(crate) fn parse(url: &str) -> Result<Self, QueueError> {
        let mut uri: AMQPUri = url.parse().map_err(|_| {
            let what = "connect to this address: write `amqp://user:password@host:5672/vhost`, with `amqps` for TLS, and \
                        with `%` escapes for special characters of the password";
            QueueError::Unsupported { engine: ENGINE, what }
        })?;
        if uri.vhost.is_empty() {
            // `amqp://host/` means the default virtual host to people, and the one without a name to the standard.
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self(uri))
    }

    pub(crate) const fn uri(&self) -> &AMQPUri {
        &self.0
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        write!(f, "{scheme}://{}:{}/{vhost}", authority.host, authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows() {
        let address = Address::parse("amqps://ann:se%2Fcret@broker:5671/orders?heartbeat=7").unwrap();
        assert_eq!(address.uri().authority.userinfo.password, "se/cret");
        assert_eq!(format!("{address} {address:?}"), "amqps://broker:5671/orders amqps://broker:5671/orders");
        assert!(address.is_encrypted());
        assert_eq!(address.uri().query.heartbeat, Some(7));
    }

    #[test]
    fn a_url_that_is_none_is_not_quoted() {
        for url in ["secret", "http://ann:secret@broker/", "amqp://ann:secret@broker:port/"] {
            let error = Address::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn no_path_is_the_default_virtual_host() {
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            assert_eq!(Address::parse(url).unwrap().uri().vhost, "/", "{url}");
        }
    }
}
