//! The ids of tasks: unique in the process, and recognised outside of it.

use std::{collections::HashSet, thread};

use postlude::{ParseIdError, TaskId, TaskRegistry};

/// An instance as another process might have drawn it.
const OTHER: &str = "0f3k9v5zq8m2n7x4c6b1t0ydwp";

mod number {
    use super::*;

    // Registries share the sequences: also those that were made and dropped before.
    #[test]
    fn is_unique_over_all_registries_and_threads() {
        let draw = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut ids = Vec::new();
                for _ in 0..50 {
                    let registry = TaskRegistry::new();
                    let set = registry.set();
                    for _ in 0..10 {
                        ids.push(registry.spawn(async {}).id());
                        ids.push(set.add(async {}));
                    }
                    set.drain().await;
                    registry.wait_idle().await;
                }
                ids
            })
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(draw)).collect();
        let ids: Vec<TaskId> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let distinct: HashSet<_> = ids.iter().collect();
        assert_eq!((ids.len(), distinct.len()), (4_000, 4_000));
    }

    #[tokio::test]
    async fn of_another_registry_is_unknown() {
        let [first, second] = [(); 2].map(|()| TaskRegistry::new());
        let id = first.spawn(std::future::pending::<()>()).id();
        for _ in 0..100 {
            second.spawn(std::future::pending::<()>());
        }
        assert!(second.get(id).is_none() && !second.abort(id));
        assert!(first.get(id).is_some() && first.abort(id));
    }
}

mod from_external {
    use super::*;

    #[tokio::test]
    async fn reads_what_to_external_writes() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        for id in [registry.spawn(async {}).id(), set.add(async {}), set.add(async {})] {
            let text = id.to_external();
            assert_eq!(text, format!("{id}-{}", TaskId::instance()));
            assert_eq!(TaskId::from_external(&text), Ok(id));
        }
    }

    #[test]
    fn recognises_an_id_of_another_process() {
        for id in ["17", "17.2"] {
            assert_eq!(TaskId::from_external(&format!("{id}-{OTHER}")), Err(ParseIdError::OtherProcess));
        }
    }

    #[test]
    fn is_strict() {
        let instance = TaskId::instance();
        let upper = instance.to_uppercase();
        let instances = ["", "x", &instance[1..], &format!("{instance}0"), &upper, &format!("{instance} "), "-"];
        for wrong in instances.map(|instance| format!("17.2-{instance}")) {
            assert_eq!(TaskId::from_external(&wrong), Err(ParseIdError::Malformed), "{wrong:?}");
        }
        for short in ["", "x", "0", "017", "+17", "1.0", "1.02", "1.+2", "17 ", "18446744073709551616"] {
            for wrong in [short.to_owned(), format!("{short}-{instance}"), format!("{short}-{OTHER}")] {
                assert!(wrong.parse::<TaskId>().is_err(), "{wrong:?}");
                assert_eq!(TaskId::from_external(&wrong), Err(ParseIdError::Malformed), "{wrong:?}");
            }
        }
        assert_eq!(TaskId::from_external("17.2"), Err(ParseIdError::Malformed), "a short id has no instance");
        assert!(format!("17.2-{instance}").parse::<TaskId>().is_err(), "and `FromStr` reads short ids only");
    }
}

mod instance {
    use super::*;

    #[test]
    fn has_26_digits_and_stays() {
        let instance = TaskId::instance();
        assert_eq!(instance.len(), 26);
        assert!(instance.bytes().all(|byte| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&byte)), "{instance}");
        assert_eq!(instance, thread::spawn(TaskId::instance).join().unwrap());
    }

    // Two processes: this one, and a child that runs this test and prints its own.
    #[test]
    #[expect(clippy::print_stdout, reason = "its parent reads it")]
    fn differs_between_processes() {
        println!("instance={}", TaskId::instance());
        if std::env::var_os("POSTLUDE_TEST_CHILD").is_some() {
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["ids::instance::differs_between_processes", "--exact", "--nocapture"])
            .env("POSTLUDE_TEST_CHILD", "1")
            .output()
            .unwrap();
        let text = String::from_utf8(child.stdout).unwrap();
        let other = text.lines().find_map(|line| line.split_once("instance=")).unwrap().1;
        assert_eq!(other.len(), 26, "{text}");
        assert_ne!(other, TaskId::instance());
        assert_eq!(TaskId::from_external(&format!("17.2-{other}")), Err(ParseIdError::OtherProcess));
    }
}

#[cfg(feature = "serde")]
mod serde {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn writes_and_reads_the_external_text() {
        let registry = TaskRegistry::new();
        let id = registry.set().add(async {});
        assert_eq!(serde_json::to_value(id).unwrap(), json!(id.to_external()));
        assert_eq!(serde_json::from_value::<TaskId>(json!(id.to_external())).unwrap(), id);
        let cases = [
            ("mail".to_owned(), "as `to_external` writes it"),
            (id.to_string(), "as `to_external` writes it"),
            (format!("{id}-{OTHER}"), "of another process"),
        ];
        for (text, hint) in cases {
            let error = serde_json::from_value::<TaskId>(json!(text)).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
