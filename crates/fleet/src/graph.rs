//! Circles, orders and longest chains of small graphs.

use std::collections::{BTreeSet, VecDeque};

/// For each vertex those it comes after.
pub(crate) type Graph = Vec<Vec<usize>>;

/// The vertices in an order in which each comes after all it points to (Kahn 1962). Vertices on a circle, and those that
/// come after one, are left out.
pub(crate) fn order(graph: &Graph) -> Vec<usize> {
    let mut waiting: Vec<usize> = graph.iter().map(Vec::len).collect();
    let mut later: Graph = vec![Vec::new(); graph.len()];
    for (vertex, befores) in graph.iter().enumerate() {
        befores.iter().for_each(|b| later[*b].push(vertex));
    }
    let mut order: Vec<usize> = (0..graph.len()).filter(|v| waiting[*v] == 0).collect();
    let mut next = 0;
    while let Some(&vertex) = order.get(next) {
        next += 1;
        for &after in &later[vertex] {
            waiting[after] -= 1;
            if waiting[after] == 0 {
                order.push(after);
            }
        }
    }
    order
}

/// Circles such that every vertex that lies on any circle lies on one of these: for each, a shortest one through it,
/// unless an earlier one passed there. A circle starts with its lowest vertex and does not repeat it at the end.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<usize>> {
    let free: BTreeSet<usize> = order(graph).into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for vertex in (0..graph.len()).filter(|v| !free.contains(v)) {
        if seen.contains(&vertex) {
            continue;
        }
        if let Some(mut circle) = way_back(graph, vertex) {
            seen.extend(circle.iter().copied());
            let lowest = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap_or(0);
            circle.rotate_left(lowest);
            circles.push(circle);
        }
    }
    circles
}

/// A shortest way from a vertex back to itself (breadth first).
fn way_back(graph: &Graph, start: usize) -> Option<Vec<usize>> {
    let mut from = vec![None; graph.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(vertex) = queue.pop_front() {
        for &next in &graph[vertex] {
            if next == start {
                let mut way: Vec<usize> = std::iter::successors(Some(vertex), |v| from[*v]).collect();
                way.reverse();
                return Some(way);
            }
            if from[next].is_none() {
                from[next] = Some(vertex);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The chain with the greatest sum of weights, first vertex first, and that sum. Vertices on circles do not count.
pub(crate) fn longest_chain(graph: &Graph, weights: &[u64]) -> (Vec<usize>, u64) {
    let mut best: Vec<(u64, Option<usize>)> = vec![(0, None); graph.len()];
    for vertex in order(graph) {
        let before = graph[vertex].iter().copied().max_by_key(|b| (best[*b].0, std::cmp::Reverse(*b)));
        let sum = before.map_or(0, |b| best[b].0);
        best[vertex] = (sum.saturating_add(weights[vertex]), before);
    }
    let last = (0..graph.len()).max_by_key(|v| (best[*v].0, std::cmp::Reverse(*v)));
    let mut chain: Vec<usize> = std::iter::successors(last, |v| best[*v].1).collect();
    chain.reverse();
    (chain, last.map_or(0, |v| best[v].0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Edges from higher to lower vertices only: no circle.
    fn acyclic(size: usize) -> impl Strategy<Value = Graph> {
        prop::collection::vec(prop::collection::btree_set(0..size, 0..4), size).prop_map(|befores| {
            befores.into_iter().enumerate().map(|(v, b)| b.into_iter().filter(|b| *b < v).collect()).collect()
        })
    }

    proptest! {
        #[test]
        fn an_order_puts_everything_after_what_it_comes_after(graph in acyclic(20)) {
            let order = order(&graph);
            prop_assert_eq!(order.len(), graph.len());
            let place = |v: usize| order.iter().position(|o| *o == v);
            for (vertex, befores) in graph.iter().enumerate() {
                prop_assert!(befores.iter().all(|b| place(*b) < place(vertex)));
            }
            prop_assert!(circles(&graph).is_empty());
        }

        #[test]
        fn every_vertex_of_a_planted_circle_is_found(
            mut graph in acyclic(20),
            planted in prop::sample::subsequence((0..20).collect::<Vec<usize>>(), 1..6).prop_shuffle(),
        ) {
            for (i, vertex) in planted.iter().enumerate() {
                graph[*vertex].push(planted[(i + 1) % planted.len()]);
            }
            let circles = circles(&graph);
            for vertex in planted {
                prop_assert!(circles.iter().any(|c| c.contains(&vertex)), "{vertex} is in none of {circles:?}");
            }
            for circle in &circles {
                for (i, vertex) in circle.iter().enumerate() {
                    prop_assert!(graph[*vertex].contains(&circle[(i + 1) % circle.len()]));
                }
            }
        }

        #[test]
        fn no_chain_is_longer_than_the_longest(graph in acyclic(12), weights in prop::collection::vec(0u64..100, 12)) {
            fn walk(graph: &Graph, weights: &[u64], vertex: usize) -> u64 {
                weights[vertex] + graph[vertex].iter().map(|b| walk(graph, weights, *b)).max().unwrap_or(0)
            }
            let (chain, total) = longest_chain(&graph, &weights);
            prop_assert_eq!(total, (0..12).map(|v| walk(&graph, &weights, v)).max().unwrap());
            prop_assert_eq!(total, chain.iter().map(|v| weights[*v]).sum::<u64>());
            prop_assert!(chain.windows(2).all(|w| graph[w[1]].contains(&w[0])));
        }
    }
}
