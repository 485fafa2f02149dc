import unittest

from account import Account, InsufficientFunds


class AccountTest(unittest.TestCase):
    def setUp(self):
        self.account = Account("Ada", balance=100, overdraft=50)

    def test_deposit(self):
        self.account.deposit(25)
        self.assertEqual(self.account.balance, 125)

    def test_withdraw_into_overdraft(self):
        self.account.withdraw(130)
        self.assertEqual(self.account.balance, -30)

    def test_too_much(self):
        with self.assertRaises(InsufficientFunds):
            self.account.withdraw(151)
        self.assertEqual(self.account.balance, 100)

    def test_transfer(self):
        other = Account("Ben")
        self.account.transfer(other, 40)
        self.assertEqual((self.account.balance, other.balance), (60, 40))
