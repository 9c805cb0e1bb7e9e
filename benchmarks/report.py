"""From pytest-benchmark's rounds to a table, JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def results(rounds: list[dict[str, Any]], limits: dict[str, float]) -> list[dict[str, Any]]:
    """A row per benchmark: op, shape, items a second (best and median round), the share of the read limit, and of BLAS where a product bounds it."""
    rows = []
    for one in rounds:
        info, stats = one["extra_info"], one["stats"]
        rows.append(
            {
                "op": info["op"],
                "shape": info["shape"],
                "items_per_s": info["items"] / stats["min"],
                "items_per_s_median": info["items"] / stats["median"],
                "share_of_read": info["bytes"] / stats["min"] / limits["read_bytes_per_s"],
                "share_of_matmul": info["flops"] / stats["min"] / limits["matmul_flops_per_s"] if info["flops"] else None,
            }
        )
    return rows


def beside_peers(peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Peers' rates with ours on the same work, and the ratio."""
    from benchmarks.peers.ours import distance_differs, distances_differ, psi_differs, rates

    mine = rates()
    for peer in peers:
        if peer["name"] == "Evidently PSI report":
            peer["largest_difference"] = psi_differs(peer)
            assert peer["largest_difference"] < 1e-6, f"PSI differs from Evidently's by {peer['largest_difference']}"
        if peer["name"] == "Evidently distances":
            peer["largest_difference"] = distances_differ(peer)
            assert peer["largest_difference"] < 1e-6, f"distances differ from Evidently's by {peer['largest_difference']}"
        if peer["name"] == "scikit-learn NearestNeighbors":
            peer["largest_difference"] = distance_differs(peer)
            assert peer["largest_difference"] < 1e-4, f"distances differ from scikit-learn's by {peer['largest_difference']}"
    return [peer | {"ours_per_s": mine[peer["name"]], "ratio": mine[peer["name"]] / peer["items_per_s"]} for peer in peers]


def show(result: dict[str, Any]) -> None:
    """Print what was measured, limits first."""
    console = Console(width=120)
    limits = result["limits"]
    console.print(
        f"{result['machine']}; reads {limits['read_bytes_per_s'] / 1e9:.1f} GB/s, {limits['matmul_flops_per_s'] / 1e9:.0f} GFLOP/s float32"
    )
    table = Table("op", "shape", "million/s", "median", "share of read limit", "of BLAS")
    for row in result["results"]:
        table.add_row(
            row["op"],
            row["shape"],
            f"{row['items_per_s'] / 1e6:,.3g}",
            f"{row['items_per_s_median'] / 1e6:,.3g}",
            f"{row['share_of_read']:.1%}",
            f"{row['share_of_matmul']:.0%}" if row["share_of_matmul"] else "",
        )
    console.print(table)
    if result["peers"]:
        table = Table("peer", "items/s", "Telltale, items/s", "ratio")
        for row in result["peers"]:
            table.add_row(row["name"], f"{row['items_per_s']:,.0f}", f"{row['ours_per_s']:,.0f}", f"{row['ratio']:,.0f}x")
        console.print(table)


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of items a second, one per benchmark, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    rows = result["results"]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(rows)), layout="constrained")
    axes.barh([f"{row['op']}: {row['shape']}" for row in rows][::-1], [row["items_per_s"] / 1e6 for row in rows][::-1], color="#3b6ea5")
    axes.set_xscale("log")
    axes.set_xlabel(f"million items a second ({result['machine']})")
    figure.savefig(path)
    pyplot.close(figure)
