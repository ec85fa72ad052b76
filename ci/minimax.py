"""Prints the polynomials of src/vecmath.h: minimax in relative error, by Remez exchange.

Needs mpmath. Run it after changing a degree or an interval, and copy the digits.
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.prec = 200
Function = Callable[[mp.mpf], mp.mpf]


def remez(
    f: Function, weight: Function, low: mp.mpf, high: mp.mpf, degree: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """The polynomial p with the least max of abs(weight (p - f)), lowest power first; that max."""
    n = degree + 2
    middle, half = (low + high) / 2, (high - low) / 2
    points = [middle - half * mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    grid = [low + (high - low) * mp.mpf(i) / (40 * n) for i in range(40 * n + 1)]
    for _ in range(30):
        matrix = mp.matrix(n, n)
        for i, x in enumerate(points):
            for j in range(degree + 1):
                matrix[i, j] = x**j
            matrix[i, degree + 1] = (-1) ** i / weight(x)
        solution = mp.lu_solve(matrix, mp.matrix([f(x) for x in points]))
        p = [solution[j] for j in range(degree + 1)]
        extremes: list[tuple[mp.mpf, mp.mpf]] = []
        for x in grid:
            error = weight(x) * (mp.polyval(p[::-1], x) - f(x))
            if not extremes or mp.sign(error) != mp.sign(extremes[-1][1]):
                extremes.append((x, error))
            elif abs(error) > abs(extremes[-1][1]):
                extremes[-1] = (x, error)
        while len(extremes) > n:
            extremes.pop(0 if abs(extremes[0][1]) < abs(extremes[-1][1]) else -1)
        if len(extremes) < n:
            break
        points = [x for x, _ in extremes]
    return p, max(abs(error) for _, error in extremes)


def of_exp(r: mp.mpf) -> mp.mpf:
    """The q(r) of exp(r) = 1 + r + r^2 q(r)."""
    return (mp.expm1(r) - r) / r**2 if abs(r) > mp.mpf(10) ** -20 else mp.mpf(1) / 2


def exp_rest(degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """That q on abs(r) <= log(2) / 2, and a hair more."""
    edge = mp.log(2) / 2 * mp.mpf("1.0001")
    small = mp.mpf(10) ** -6
    return remez(
        of_exp,
        lambda r: r**2 / mp.exp(r) if abs(r) > small else small**2,
        -edge,
        edge,
        degree,
    )


def exp_part(degree: int, parts: int) -> tuple[list[mp.mpf], mp.mpf]:
    """That q on abs(r) <= log(2) / (2 parts). Its own error: r^2 q's does not alternate at 0."""
    edge = mp.log(2) / (2 * parts) * mp.mpf("1.0001")
    q, worst = remez(of_exp, lambda r: mp.mpf(1), -edge, edge, degree)
    return q, worst * edge**2


def atanh_rest(degree: int, s_max: mp.mpf) -> tuple[list[mp.mpf], mp.mpf]:
    """The q of 2 atanh(s) = 2 s + s z q(z), z = s^2, on 0 <= s <= s_max."""
    small = mp.mpf(10) ** -6
    return remez(
        lambda z: (
            (2 * mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 2) / z
            if z > mp.mpf(10) ** -10
            else mp.mpf(2) / 3 + mp.mpf(2) / 5 * z
        ),
        lambda z: max(z / 2, small),
        mp.mpf(0),
        s_max**2,
        degree,
    )


def log_rest(degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The q of log(1 + f) = f + f^2 q(f) on [sqrt(1/2), sqrt(2)] - 1, and a hair more."""
    wider, small = mp.mpf("1.0001"), mp.mpf(10) ** -3
    return remez(
        lambda f: (mp.log1p(f) - f) / f**2 if abs(f) > mp.mpf(10) ** -20 else -mp.mpf(1) / 2,
        lambda f: abs(f**2 / mp.log1p(f)) if abs(f) > small else small,
        (mp.sqrt(2) / 2 - 1) * wider,
        (mp.sqrt(2) - 1) * wider,
        degree,
    )


def log_cosh_rest(degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The q of log(cosh(x)) = z q(z), z = x^2, on 0 <= x <= 1."""

    def q(z: mp.mpf) -> mp.mpf:
        return mp.log(mp.cosh(mp.sqrt(z))) / z if z > mp.mpf(10) ** -10 else mp.mpf(1) / 2 - z / 12

    return remez(q, lambda z: 1 / q(z), mp.mpf(0), mp.mpf(1), degree)


for name, digits, (polynomial, worst) in [
    ("exp, float", 18, exp_rest(4)),
    ("exp, double", 20, exp_rest(9)),
    ("exp in 8 parts, float", 18, exp_part(2, 8)),
    ("exp in 16 parts, float", 18, exp_part(1, 16)),
    ("exp in 8 parts, double", 20, exp_part(5, 8)),
    ("log1p on [0, 1], float", 18, atanh_rest(3, mp.mpf(1) / 3)),
    ("log1p on [0, 1], double", 20, atanh_rest(9, mp.mpf(1) / 3)),
    ("log, float", 18, log_rest(8)),
    ("log, double", 20, atanh_rest(6, mp.mpf("0.17158"))),
    ("exp, brief", 20, exp_rest(7)),
    ("log, brief", 20, log_rest(13)),
    ("log cosh, float", 18, log_cosh_rest(6)),
    ("log cosh, double", 20, log_cosh_rest(14)),
]:
    print(f"{name}: relative error {mp.nstr(worst, 3)}, lowest power first")
    for coefficient in polynomial:
        print(f"    {mp.nstr(coefficient, digits)}")
