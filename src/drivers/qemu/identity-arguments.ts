// The part of QEMU's command line by which a guest knows which machine it is: SMBIOS fields and the VM generation ID.
import { type GuestDefinition } from '../driver.ts';

/** What QEMU is told of a VM's identity. `hasGenerationId`: whether the guest has a device that tells its generation. */
export function identityArguments(
  { id, spec, generationId }: Pick<GuestDefinition, 'id' | 'spec' | 'generationId'>,
  { hasGenerationId }: { hasGenerationId: boolean },
): string[] {
  const { smbios } = spec;
  const args = ['-uuid', smbios?.uuid ?? id];
  const table = (type: number, fields: Readonly<Record<string, string | undefined>>): void => {
    const given = Object.entries(fields).flatMap(([name, value]) =>
      value === undefined ? [] : [`${name}=${escaped(value)}`],
    );
    if (given.length > 0) args.push('-smbios', [`type=${type}`, ...given].join(','));
  };
  if (smbios) {
    const { manufacturer, product, serial, sku, family, assetTag, oemStrings = [] } = smbios;
    table(1, { manufacturer, product, serial, sku, family });
    table(2, { manufacturer, product, serial, asset: assetTag });
    table(3, { manufacturer, serial, sku, asset: assetTag });
    if (oemStrings.length > 0)
      args.push('-smbios', ['type=11', ...oemStrings.map((text) => `value=${escaped(text)}`)].join(','));
  }
  if (hasGenerationId && generationId) args.push('-device', `vmgenid,id=generation0,guid=${generationId}`);
  return args;
}

/** A comma in a value is written twice, as in all options of QEMU. */
function escaped(text: string): string {
  return text.replaceAll(',', ',,');
}

/** Whether a guest was started with a device that tells its generation. */
export function tellsGeneration(args: readonly string[]): boolean {
  return args.some((argument) => argument.startsWith('vmgenid,'));
}
