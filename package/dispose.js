// `Symbol.dispose` where the engine has it, else the symbol that compiled `using` declarations look for.
// esbuild puts these names in place of the symbols, so they are reached by reflection here.
export const DISPOSE = Reflect.get(Symbol, "dispose") ?? Symbol.for("Symbol.dispose");
export const ASYNC_DISPOSE = Reflect.get(Symbol, "asyncDispose") ?? Symbol.for("Symbol.asyncDispose");
