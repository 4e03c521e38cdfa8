"""Formulas of vectors, as those of transforms: what is written as sums and products becomes code."""

from __future__ import annotations

from typing import Any

from numbaconv.cpu._emit import Vectors


class Term:
    """A vector in a formula. What is added to a product is one multiply-add with it: which one is said here, not left to LLVM."""

    def __init__(self, vectors: Vectors, value: Any, factors: tuple[Any, Any] | None = None) -> None:
        self.vectors, self.value, self.factors = vectors, value, factors

    def __neg__(self) -> Term:
        negated = self.vectors.builder.fneg
        return Term(self.vectors, negated(self.value), self.factors and (negated(self.factors[0]), self.factors[1]))

    def __add__(self, other: Term) -> Term:
        if other.factors:
            return Term(self.vectors, self.vectors.fma(*other.factors, self.value))
        if self.factors:
            return Term(self.vectors, self.vectors.fma(*self.factors, other.value))
        return Term(self.vectors, self.vectors.add(self.value, other.value))

    def __sub__(self, other: Term) -> Term:
        return self + -other

    def __rmul__(self, factor: float) -> Term:
        return -self if factor == -1 else self * Term(self.vectors, self.vectors.constant(factor))

    def __mul__(self, other: Term) -> Term:
        factors = self.value, other.value
        return Term(self.vectors, self.vectors.multiply(*factors), factors)
