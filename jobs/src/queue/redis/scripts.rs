//! The scripts: each changes all or nothing, because the server runs one at a time.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident: $($file:literal)+;)+) => {$(
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("scripts/common.lua"), $(include_str!($file)),+))
        });
    )+};
}

scripts! {
    PREPARE: "scripts/prepare.lua";
    PUSH: "scripts/store.lua" "scripts/push.lua";
    TICK: "scripts/store.lua" "scripts/tick.lua";
    LAST_TICK: "scripts/last_tick.lua";
    RESERVE: "scripts/reserve.lua";
    RENEW: "scripts/renew.lua";
    RELEASE_OTHERS: "scripts/release_others.lua";
    SETTLE: "scripts/settle.lua";
    NOTE: "scripts/note.lua";
    LOOK: "scripts/look.lua";
    MAKE_WAITING: "scripts/make_waiting.lua";
    TAKE_BACK: "scripts/take_back.lua";
    SHORTEN_LEASES: "scripts/shorten_leases.lua";
    PRUNE: "scripts/prune.lua";
    SHOW: "scripts/show.lua";
    STATS: "scripts/stats.lua";
    CANCEL: "scripts/cancel.lua";
    DEAD: "scripts/dead.lua";
    REPLAY: "scripts/replay.lua";
    DISCARD: "scripts/discard.lua";
    PAUSE: "scripts/pause.lua";
}
