use proptest::prelude::*;
use tandem_types::Code;

use super::tests::{new, said, sqlite, talk};
use super::*;
use crate::testing::{at, key, user};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_query_is_a_syntax_error(queries in proptest::collection::vec("(?s).{0,40}|[\"*^:(){}+\\-a-c \u{0}]{1,20}", 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_folder, store) = sqlite();
            talk(&*store, "ana", &["a b c"], at(0)).await;
            for query in queries {
                let search = Search { query, session: None, from: at(0), to: at(9), limit: 0 };
                if let Err(fault) = store.search(&user("ana"), search).await {
                    assert_eq!(fault.code, Code::InvalidArgument);
                }
            }
        });
    }

    /// Against the plain reading of the promise: the longest run of newest entries within both limits.
    #[test]
    fn a_window_is_the_longest_tail_that_fits(
        costs in proptest::collection::vec(1u32..300, 0..30),
        tokens in 0u32..2_000,
        items in 0u32..25,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_folder, store) = sqlite();
            let ana = user("ana");
            let id = store.create(key(1), new("ana", None), at(0)).await.unwrap().session.id;
            for (n, cost) in (2..).zip(&costs) {
                store.append(key(n), &ana, &id, said(n, Speaker::User, "text", *cost), at(n as i64)).await.unwrap();
            }
            let fits = |n: usize| n <= items as usize && costs[costs.len() - n..].iter().sum::<u32>() <= tokens;
            let expected = (0..=costs.len()).rev().find(|n| fits(*n)).unwrap();
            let window = store.window(&ana, &id, Budget { tokens, items }).await.unwrap();
            let first = costs.len() - expected + 1;
            let numbers: Vec<u64> = window.entries.iter().map(|e| e.number).collect();
            assert_eq!(numbers, (first as u64..=costs.len() as u64).collect::<Vec<_>>());
            assert_eq!(window.truncated, expected < costs.len());
        });
    }
}
