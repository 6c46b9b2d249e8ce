use std::time::Duration;
use postlude::*;

#[tokio::test]
async fn smoke() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.add(async {});
    set.add(async { Err::<(), _>("x") });
    set.add(async { panic!("p") });
    set.add_blocking(|| {});
    set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(10)));
    set.add(async { after(async {}).unwrap(); });
    let report = set.drain().await;
    assert_eq!(report.total(), 7, "{report:?}");
    println!("{report:?} {:?}", registry.metrics());
    let h = registry.spawn(std::future::pending::<()>());
    h.abort();
    assert!(matches!(h.await, Outcome::Aborted));
    let r = registry.shutdown(Duration::from_secs(1)).await;
    println!("{r}");
}
