"""How functions that only kernels call are compiled: no further than to LLVM's code, which each kernel takes in.

Numba optimizes every function and makes machine code of it, and wrappers for Python and C, before it links the function into a caller
and does all of that again. What is called three levels down would be optimized and translated three times: more than half of the time
that a kernel of many functions takes.

It also goes through all that a function could mean, by its arguments' types, wherever the function is called: what it found for one call is
remembered here for the next, which spares a seventh of the whole time.
"""

from __future__ import annotations

import ctypes
from types import BuiltinFunctionType
from typing import Any

from llvmlite.binding import Linkage
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import AnnotateTypes, NativeLowering, NopythonTypeInference
from numba.core.types import Function, NumberClass


class _Unfinished(JITCodeLibrary):
    """LLVM code to be linked into others, which are optimized and translated. What it calls is linked only then, not again at every level."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        libraries, found = [self], {self}
        for library in libraries:  # which grow meanwhile
            for called in library._linking_libraries if isinstance(library, _Unfinished) else ():
                if called not in found:
                    found.add(called)
                    libraries.append(called)
        module = self._final_module.clone()
        for library in libraries[1:]:
            if hasattr(library, "_reload_init"):  # since Numba 0.63
                self._reload_init.update(library._reload_init)
            module.link_in(library._final_module if isinstance(library, _Unfinished) else library._get_module_for_linking(), preserve=True)
        for function in module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"
        return module


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lower(NativeLowering):
    """Make LLVM code of a function. To call it from Python is a TypeError."""

    _name = "numbaconv_lower_callee"

    def run_pass(self, state: Any) -> bool:
        state.library = _Unfinished(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # Callers know a function by its entry point, which has to be an object of its own. This one calls itself as an object, which fails.
        address = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value
        module, name = lowered.fndesc.lookup_module(), lowered.fndesc.qualname
        entry = _dynfunc.make_function(module, name, "called by kernels only", address, lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


class _Remembering:
    """A typing context that remembers which signature an operator, another function of Numba's own or an intrinsic has for some types."""

    known: dict[tuple[Any, ...], Any] = {}

    def __init__(self, context: Any, options: str) -> None:
        self._context, self._options = context, options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the signature, or None."""
        if named or not isinstance(function, (Function, NumberClass, BuiltinFunctionType)):
            return self._context.resolve_function_type(function, arguments, named)
        key, implementations = (self._options, function, arguments), getattr(function, "_impl_keys", None)
        found = self.known.get(key)
        if found is None:
            signature = self._context.resolve_function_type(function, arguments, named)
            if signature is None:
                return None
            found = self.known[key] = signature, implementations and implementations[signature.args]
        signature, implementation = found
        if implementations is not None:  # where the lowering looks; by now what was compiled for other options may be there
            implementations[signature.args] = implementation
        return signature


@register_pass(mutates_CFG=True, analysis_only=False)
class _Infer(NopythonTypeInference):
    """Find the types of all values."""

    _name = "numbaconv_infer_callee"

    def run_pass(self, state: Any) -> bool:
        context = state.typingctx
        state.typingctx = _Remembering(context, state.flags.summary())
        try:
            return bool(super().run_pass(state))
        finally:
            state.typingctx = context


class CalleeCompiler(CompilerBase):
    """Numba's passes for nopython code, with these two in the place of its own, and without what `inspect_types` would print."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        ours = {NopythonTypeInference: _Infer, NativeLowering: _Lower}
        passes.passes = [(ours.get(kind, kind), text) for kind, text in passes.passes if kind is not AnnotateTypes]
        passes.finalize()
        return [passes]


OPTIONS = {"pipeline_class": CalleeCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
