// What goes with a VM's display: the layout of its keyboard, and its clipboard.
import * as z from 'zod';

/** Layouts that QEMU has tables for (qemu/pc-bios/keymaps, QEMU 10). */
export const keyboardLayout = z
  .enum([
    'ar',
    'bepo',
    'cz',
    'da',
    'de',
    'de-ch',
    'en-gb',
    'en-us',
    'es',
    'et',
    'fi',
    'fo',
    'fr',
    'fr-be',
    'fr-ca',
    'fr-ch',
    'hr',
    'hu',
    'is',
    'it',
    'ja',
    'lt',
    'lv',
    'mk',
    'nl',
    'no',
    'pl',
    'pt',
    'pt-br',
    'ru',
    'sl',
    'sv',
    'th',
    'tr',
  ])
  .meta({ id: 'KeyboardLayout' });

export const vmDisplayChoices = {
  keyboardLayout: keyboardLayout
    .optional()
    .describe(
      'Layout that the guest is set to, for VNC viewers that send characters: QEMU looks up the keys that make them there. Viewers that send keys (scancodes), as noVNC and TigerVNC do, need none. Without it, en-us',
    ),
  hasClipboard: z
    .boolean()
    .default(false)
    .describe(
      'Text can be copied between VNC viewers and the guest, in which spice-vdagent runs. While it is on, QEMU can’t save the guest’s memory: no suspend, no snapshot with memory, no fork',
    ),
};
