// The part of the reflect-metadata API (https://www.npmjs.com/package/reflect-metadata) that tsyringe asks for when it is
// loaded; @peculiar/x509 uses tsyringe. Lodge itself uses no metadata and no decorators. Imported for its effect, before
// @peculiar/x509; it does nothing where the API is there already.

type Target = object;

interface MetadataReflect {
  getMetadata?: (key: unknown, target: Target) => unknown;
  getOwnMetadata?: (key: unknown, target: Target) => unknown;
  hasOwnMetadata?: (key: unknown, target: Target) => boolean;
  defineMetadata?: (key: unknown, value: unknown, target: Target) => void;
  metadata?: (key: unknown, value: unknown) => (target: Target) => void;
}

const reflect = Reflect as MetadataReflect;

if (reflect.getMetadata === undefined) {
  const kept = new WeakMap<Target, Map<unknown, unknown>>();
  const define = (key: unknown, value: unknown, target: Target): void => {
    const own = kept.get(target) ?? new Map<unknown, unknown>();
    own.set(key, value);
    kept.set(target, own);
  };
  reflect.defineMetadata = define;
  reflect.metadata = (key, value) => (target) => define(key, value, target);
  reflect.getOwnMetadata = (key, target) => kept.get(target)?.get(key);
  reflect.hasOwnMetadata = (key, target) => kept.get(target)?.has(key) ?? false;
  reflect.getMetadata = (key, target) => {
    for (let at: Target | null = target; at !== null; at = Object.getPrototypeOf(at) as Target | null) {
      const own = kept.get(at);
      if (own?.has(key) === true) return own.get(key);
    }
    return undefined;
  };
}
