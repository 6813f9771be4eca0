// What a VM's firmware and identity can be asked for: Secure Boot, a TPM, SMBIOS fields, one-time boot, and the reset of
// what firmware and TPM keep.
import * as z from 'zod';

/** Most bytes of one certificate in PEM. */
const maxCertificateBytes = 16_384;

export const firmwareType = z.enum(['auto', 'direct', 'bios', 'uefi']).meta({ id: 'FirmwareType' });

export const vmSecureBoot = z
  .strictObject({
    isEnabled: z
      .boolean()
      .default(true)
      .describe('Whether only signed loaders are run. Needs UEFI and machine type q35'),
    keys: z
      .enum(['microsoft', 'own'])
      .default('microsoft')
      .describe(
        'Whose signatures count: microsoft (most systems are signed for them), or own: those of ownCertificates',
      ),
    ownCertificates: z
      .array(
        z
          .string()
          .max(maxCertificateBytes)
          .regex(
            /^\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*$/,
            'is one X.509 certificate in PEM',
          ),
      )
      .max(16)
      .default([])
      .describe(
        'X.509 certificates in PEM, whose signatures on loaders count. The first is the platform key and key exchange key too',
      ),
  })
  .meta({ id: 'VmSecureBoot' });
export type VmSecureBoot = z.output<typeof vmSecureBoot>;

/** SMBIOS strings are printable; 64 characters are what operating systems show in full (DSP0134 sets no limit). */
const smbiosText = (what: string, longest = 64): z.ZodOptional<z.ZodString> =>
  z
    .string()
    .min(1)
    .max(longest)
    .regex(/^[\x20-\x7e]*$/, 'takes printable ASCII')
    .optional()
    .describe(what);

export const vmSmbios = z
  .strictObject({
    manufacturer: smbiosText('System manufacturer; without it, QEMU'),
    product: smbiosText('System product name; without it, that of the machine type'),
    serial: smbiosText('System serial number'),
    uuid: z.uuid().optional().describe('System UUID; without it, the VM’s id'),
    assetTag: smbiosText('Asset tag of chassis and base board'),
    sku: smbiosText('System SKU number'),
    family: smbiosText('System family'),
    oemStrings: z
      .array(
        z
          .string()
          .min(1)
          .max(1024)
          .regex(/^[\x20-\x7e]*$/, 'takes printable ASCII'),
      )
      .max(32)
      .optional()
      .describe('OEM strings, SMBIOS type 11; systemd reads credentials from them'),
  })
  .meta({ id: 'VmSmbios' });

export const vmTpm = z
  .strictObject({
    isEnabled: z
      .boolean()
      .default(true)
      .describe('Whether the guest has a TPM 2.0 of its own, whose state is kept encrypted with the VM'),
  })
  .meta({ id: 'VmTpm' });

export const vmFirmware = z.strictObject({
  type: firmwareType
    .default('auto')
    .describe('auto: direct for kernel images, else UEFI where the image boots by it, else BIOS'),
  commandLineExtra: z
    .string()
    .max(2000)
    .regex(/^[\x20-\x7e]*$/, 'takes printable ASCII')
    .default('')
    .describe('Added to the kernel command line of direct boot'),
  hasBootMenu: z
    .boolean()
    .optional()
    .describe('Whether the firmware waits five seconds for a key that opens its boot menu. Without it, no'),
  secureBoot: vmSecureBoot.optional().describe('Without it, off'),
});

/** What a reset of firmware makes new. */
export const firmwareReset = z
  .strictObject({
    what: z
      .enum(['variables', 'tpm'])
      .describe(
        'variables: the UEFI variable store, with boot entries and keys that the guest enrolled; tpm: the TPM, with everything that is sealed in it',
      ),
  })
  .meta({ id: 'VmFirmwareReset' });

/** What a start is to boot first, this once. */
export const bootOnce = z
  .string()
  .max(63)
  .optional()
  .describe(
    'Boot from this first, only this once: cdrom, disk or network (the first of its kind in the boot order), the name of a disk or CD-ROM, or the address of a NIC. A reset from inside the guest goes by the boot order again',
  );
