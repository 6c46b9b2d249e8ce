//! The addresses of brokers and result backends, written as Celery's settings write them.

use redis::Client;

use super::error::ConnectError;
use crate::amqp;

const BROKER: &str = "broker";

/// Where a broker is.
pub(super) enum Address {
    Redis(Box<Client>),
    /// One or several nodes of a cluster.
    Amqp(Vec<amqp::address::Address>),
}

impl Address {
    /// Reads a `broker_url`.
    pub(super) fn broker(url: &str) -> Result<Self, ConnectError> {
        let wrong = |advice| ConnectError::Url { what: BROKER, advice };
        match scheme(url) {
            Some("amqp" | "amqps" | "pyamqp" | "librabbitmq") => {
                url.split(';').map(node).collect::<Result<_, _>>().map(Self::Amqp)
            }
            Some("sqs" | "sentinel" | "kafka" | "gcpubsub" | "azureservicebus" | "pulsar") => {
                Err(wrong("only Redis and RabbitMQ are supported: write `redis://` or `amqp://`"))
            }
            _ => redis_client(BROKER, url).map(Box::new).map(Self::Redis),
        }
    }
}

fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

/// Reads a `result_backend`, or the `broker_url` of Redis.
pub(super) fn redis_client(what: &'static str, url: &str) -> Result<Client, ConnectError> {
    let wrong = |advice| Err(ConnectError::Url { what, advice });
    if !matches!(scheme(url), Some("redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix")) {
        return wrong(if what == BROKER {
            "write `redis://user:password@host:6379/0` or `amqp://user:password@host:5672/vhost`, with special \
             characters of the password percent-encoded"
        } else {
            "only Redis is supported: write `redis://user:password@host:6379/0`; read results of other backends with \
             their own clients"
        });
    }
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, query)| (url, query));
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            // The certificate is always checked.
            Some(("ssl_cert_reqs", "required" | "CERT_REQUIRED")) => {}
            Some(("ssl_cert_reqs", _)) => {
                return wrong("certificates are always checked: write `ssl_cert_reqs=required`, or leave it out");
            }
            Some(("ssl_ca_certs" | "ssl_certfile" | "ssl_keyfile", _)) => {
                return wrong(
                    "certificates are read from the system: leave `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` \
                     out, and set the environment variable SSL_CERT_FILE",
                );
            }
            _ => kept.push(pair),
        }
    }
    let url = if kept.is_empty() { url.to_owned() } else { format!("{url}?{}", kept.join("&")) };
    // The driver's error may quote the address.
    Client::open(url).or_else(|_| {
        wrong(
            "write `redis://user:password@host:6379/0`, with special characters of the password percent-encoded; the last \
             part is the number of the database",
        )
    })
}

fn node(url: &str) -> Result<amqp::address::Address, ConnectError> {
    let wrong = |advice| ConnectError::Url { what: BROKER, advice };
    const FORM: &str = "write `amqp://user:password@host:5672/vhost`, with special characters percent-encoded; the \
                        virtual host `/` is `//` or `/%2f`";
    let rest = match url.split_once("://") {
        Some(("amqp" | "pyamqp" | "librabbitmq", rest)) => format!("amqp://{rest}"),
        Some(("amqps", rest)) => format!("amqps://{rest}"),
        _ => return Err(wrong("all addresses of a cluster must begin with `amqp://` or `amqps://`")),
    };
    let host = host(&rest);
    if host.starts_with('[') {
        return Err(wrong("write a name of the host in place of an IPv6 address"));
    }
    // The driver's error quotes the address.
    let address = amqp::address::Address::parse(&rest).map_err(|_| wrong(FORM))?;
    if host.is_empty() {
        return Err(wrong(FORM));
    }
    if address.uri().vhost.len() > usize::from(u8::MAX) {
        return Err(wrong("the name of the virtual host is longer than 255 bytes"));
    }
    Ok(address)
}

/// The host of an address, with its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use lapin::uri::AMQPUri;
    use redis::ConnectionAddr;

    use super::*;

    fn uris(url: &str) -> Vec<AMQPUri> {
        match Address::broker(url) {
            Ok(Address::Amqp(nodes)) => nodes.iter().map(|node| node.uri().clone()).collect(),
            Ok(Address::Redis(_)) => unreachable!("{url} is RabbitMQ"),
            Err(error) => unreachable!("{url}: {error}"),
        }
    }

    #[test]
    fn broker_reads_the_virtual_host_as_celery_does() {
        for (url, vhost) in [
            ("amqp://guest@host//", "/"),
            ("amqp://guest@host/", "/"),
            ("amqp://guest@host", "/"),
            ("amqp://guest@host/%2f", "/"),
            ("pyamqp://guest:guest@host:5672/shop", "shop"),
        ] {
            let uris = uris(url);
            assert_eq!((uris[0].vhost.as_str(), uris[0].authority.host.as_str()), (vhost, "host"), "{url}");
        }
    }

    #[test]
    fn broker_reads_several_nodes() {
        let hosts: Vec<_> =
            uris("amqp://a:1@one//;amqp://a:1@two//").into_iter().map(|uri| uri.authority.host).collect();
        assert_eq!(hosts, ["one", "two"]);
    }

    #[test]
    fn broker_reads_redis() {
        for url in ["redis://:pass@host:6380/3", "rediss://host/0?ssl_cert_reqs=CERT_REQUIRED", "redis://host"] {
            let Ok(Address::Redis(client)) = Address::broker(url) else { unreachable!("{url} is Redis") };
            assert!(!matches!(client.get_connection_info().addr(), ConnectionAddr::Unix(_)), "{url}");
        }
    }

    #[test]
    fn mistakes_say_what_to_write_and_show_no_password() {
        for url in [
            "sqs://user:secret@host",
            "sentinel://user:secret@host:26379",
            "amqp://user:secret@host:port/vhost",
            "amqp://user:secret@[::1]:5672//",
            "amqp://user:secret@/vhost",
            "amqp:user:secret@host",
            "amqp://user:secret@host;redis://host",
            "redis://user:secret@host/database",
            "redis://user:secret@host:port",
            "rediss://user:secret@host?ssl_cert_reqs=none",
            "rediss://user:secret@host?ssl_ca_certs=/ca.pem",
            "user:secret@host",
            "",
        ] {
            let Err(error) = Address::broker(url) else { unreachable!("{url} is accepted") };
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains("write") || text.contains("must begin") || text.contains("leave"), "{url}: {text}");
        }
    }
}
